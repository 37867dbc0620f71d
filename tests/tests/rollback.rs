//! Who can write the disk puts back what was: an older store, an older log, both. Each alone is refused by name, and the
//! operator's word is the way out. Both together, keys and all, are the limit, and are shown to be.

use proto::operator::{OperatorReply, OperatorRequest};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use system_tests::{PATIENCE, System, in_both_layouts, signal, wait_for};

/// Copies with owners, modes and times, as a thief or a backup does.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Waits until the vault has cosigned every record there is.
fn cosigned(system: &System) {
    // One connection: each look of another would be one more record.
    let mut broker = system.knock();
    wait_for("the vault to have seen the log", || {
        let (reply, _) = broker.call(&OperatorRequest::Status, &[], PATIENCE).unwrap();
        let OperatorReply::Status(status) = reply else { panic!("no status") };
        status.logs.iter().all(|head| head.size == head.cosigned && head.size > 0).then_some(())
    });
}

fn refuses(system: &System) -> String {
    system.status()["vault"]["refuses"].as_str().unwrap().to_owned()
}

fn change(system: &System) {
    let _ = system.says(&["vault", "rotate"]);
}

/// Everything is refused, the log says so, and the operator's word ends it, for good.
fn refused_until_accepted(mut system: System, what: &str) {
    system.up();
    assert!(refuses(&system).contains(what), "{}", refuses(&system));
    assert!(refuses(&system).contains("moltbot vault accept-rollback"));
    let refused = system.moltbot(&["gateway", "token", "--reveal"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("vault.rolled_back"), "{error}");
    let lines = |verb: &str| {
        let records = system.records("secret-audit");
        records.iter().filter(|record| record["verb"] == verb).cloned().collect::<Vec<Value>>()
    };
    assert!(lines("vault.rolled_back")[0]["detail"].as_str().unwrap().contains(what));
    let said = system.says(&["vault", "accept-rollback"]);
    assert!(said.starts_with("accepted: ") && said.contains(what), "{said}");
    assert!(lines("vault.accept-rollback")[0]["detail"].as_str().unwrap().contains(what));
    assert_eq!(refuses(&system), "");
    assert!(!system.token().is_empty());
    change(&system);
    system.down();
    system.up();
    assert_eq!(refuses(&system), "", "it is accepted once, and is no rollback from then on");
    let again = system.moltbot(&["vault", "accept-rollback"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("vault.not_rolled_back"));
}

in_both_layouts! {
    fn older_store_is_refused_until_the_operator_accepts_it(system: System) {
        let (state, kept) = (system.state().to_owned(), system.state().with_file_name("kept"));
        system.down();
        copy(&state.join("vault"), &kept);
        let mut system = system;
        system.up();
        change(&system);
        system.down();
        copy(&kept, &state.join("vault"));
        refused_until_accepted(system, "an older store was put back");
    }

    fn older_log_is_refused_until_the_operator_accepts_it(system: System) {
        let (state, kept) = (system.state().to_owned(), system.state().with_file_name("kept"));
        system.down();
        copy(&state.join("logs"), &kept);
        let mut system = system;
        system.up();
        change(&system);
        cosigned(&system);
        system.down();
        copy(&kept, &state.join("logs"));
        refused_until_accepted(system, "it was cut, or an older one put back");
    }

    fn one_stream_cut_with_its_checkpoints_is_refused(system: System) {
        let (state, kept) = (system.state().to_owned(), system.state().with_file_name("kept"));
        system.down();
        copy(&state.join("logs"), &kept);
        let mut system = system;
        system.up();
        cosigned(&system);
        system.down();
        for name in ["system-audit.jsonl", "system-audit.checkpoints", "system-audit.tile0"] {
            copy(&kept.join(name), &state.join("logs").join(name));
        }
        refused_until_accepted(system, "system-audit has");
    }

    fn log_that_was_written_anew_is_refused_however_long_it_is(system: System) {
        let state = system.state().to_owned();
        let [begin, kept] = ["begin", "kept"].map(|name| state.with_file_name(name));
        system.down();
        copy(&state, &begin);
        let mut system = system;
        system.up();
        cosigned(&system);
        system.down();
        copy(&state, &kept);
        // The attacker has all keys, and a machine to write a longer history with.
        copy(&begin, &state);
        for _ in 0..3 {
            system.up();
            system.down();
        }
        copy(&kept.join("vault"), &state.join("vault"));
        refused_until_accepted(system, "they were written anew");
    }

    fn store_and_log_of_one_moment_are_not_told_from_the_truth_but_by_a_checkpoint_kept_elsewhere(system: System) {
        let (state, kept) = (system.state().to_owned(), system.state().with_file_name("kept"));
        system.down();
        copy(&state, &kept);
        let mut system = system;
        system.up();
        change(&system);
        cosigned(&system);
        system.down();
        let checkpoint = state.with_file_name("checkpoint");
        std::fs::write(&checkpoint, system.says(&["logs", "checkpoint"])).unwrap();
        let verify = ["logs", "verify", "--checkpoint", checkpoint.to_str().unwrap()];
        let _ = system.says(&verify);
        copy(&kept, &state);
        let output = system.moltbot(&verify);
        assert!(String::from_utf8_lossy(&output.stdout).contains("rolled-back"));
        system.up();
        assert_eq!(refuses(&system), "", "the limit, as it is documented");
    }

    fn log_cut_under_a_running_vault_is_refused_by_it(system: System) {
        let (state, kept) = (system.state().to_owned(), system.state().with_file_name("kept"));
        system.down();
        copy(&state.join("logs"), &kept);
        let mut system = system;
        system.up();
        change(&system);
        cosigned(&system);
        // Stopped, so that it appends nothing to what takes its files' place.
        let auditd = system.pid("auditd");
        signal(auditd, Signal::STOP);
        let mut into = Command::new("cp");
        let into = into.args(["-a", "--remove-destination"]).arg(kept.join(".")).arg(state.join("logs"));
        assert!(into.status().unwrap().success());
        signal(auditd, Signal::KILL);
        wait_for("the vault's refusal", || (!refuses(&system).is_empty()).then_some(()));
        assert!(refuses(&system).contains("it was cut"), "{}", refuses(&system));
    }

    fn killed_vault_and_killed_auditd_are_no_rollback_and_cosigning_catches_up(system: System) {
        for round in 2..4 {
            change(&system);
            system.kill("vault");
            system.wait_epoch("vault", round);
            change(&system);
            system.kill("auditd");
            system.wait_epoch("auditd", round);
            wait_for("a change of the store", || system.moltbot(&["vault", "rotate"]).status.success().then_some(()));
            assert_eq!(refuses(&system), "");
        }
        cosigned(&system);
        system.down();
        let verified: Value = serde_json::from_str(&system.says(&["logs", "verify", "--json"])).unwrap();
        assert!(verified.as_array().unwrap().iter().all(|stream| stream["cosigned"].as_u64() > Some(0)), "{verified}");
    }
}
