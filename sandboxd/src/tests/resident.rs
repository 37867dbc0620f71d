use super::*;
use proptest::prelude::*;
use proto::runner::{CHUNK, Program};
use proto::sandbox::WorkspacePath;
use tokio::io::{AsyncReadExt, DuplexStream};

/// A runner that the test plays.
struct Runner {
    says: mpsc::UnboundedSender<Result<LogOutput, bollard::errors::Error>>,
    hears: DuplexStream,
    frames: Frames,
}

fn pair() -> (Resident, Greeting, Runner) {
    let (says, words) = mpsc::unbounded_channel();
    let (input, hears) = tokio::io::duplex(64 << 10);
    let output = futures_util::stream::unfold(words, |mut words: mpsc::UnboundedReceiver<_>| async {
        words.recv().await.map(|word| (word, words))
    });
    let (resident, greeting) = Resident::new(Box::pin(output), Box::pin(input));
    (resident, greeting, Runner { says, hears, frames: Frames::default() })
}

impl Runner {
    fn bytes(&self, bytes: Vec<u8>) {
        let _ = self.says.send(Ok(LogOutput::StdOut { message: bytes.into() }));
    }

    fn say(&self, word: &FromRunner) {
        self.bytes(frame(word).unwrap());
    }

    async fn hear(&mut self) -> ToRunner {
        loop {
            if let Some(word) = self.frames.take().unwrap() {
                return word;
            }
            let mut bytes = vec![0; 4_096];
            let count = self.hears.read(&mut bytes).await.unwrap();
            assert!(count > 0, "sandboxd hung up");
            self.frames.push(&bytes[..count]);
        }
    }

    async fn run(&mut self) -> Nonce {
        match self.hear().await {
            ToRunner::Run { nonce, .. } => nonce,
            other => panic!("{other:?}"),
        }
    }
}

fn launch(stdin: bool) -> Launch {
    let program = Program::Words(proto::sandbox::words(["/bin/true"]).unwrap());
    Launch { program, cwd: WorkspacePath::default(), timeout_ms: 1_000, stdin, pty: false }
}

fn output(nonce: Nonce, bytes: &[u8]) -> FromRunner {
    FromRunner::Output { nonce, is_error: false, bytes: BoundedBytes::new(bytes).unwrap() }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Greeted, and with one run.
async fn running(stdin: bool) -> (Resident, Runner, Job, Nonce) {
    let (resident, greeting, mut runner) = pair();
    runner.say(&FromRunner::Hello { version: VERSION });
    greeting.wait(Duration::from_secs(30)).await.unwrap();
    let job = resident.start(launch(stdin)).unwrap();
    let nonce = runner.run().await;
    (resident, runner, job, nonce)
}

#[test]
fn honest_runner_is_believed_about_its_run() {
    block(async {
        let (resident, runner, mut job, nonce) = running(false).await;
        runner.say(&output(nonce, b"hello"));
        runner.say(&FromRunner::Ended { nonce, ending: Ending::Exited(3) });
        assert!(matches!(job.next().await, Some(Event::Output { bytes, .. }) if bytes == b"hello"));
        assert!(matches!(job.next().await, Some(Event::Ended(Ok(RunEnd::Exited(3))))));
        assert!(job.next().await.is_none());
        assert_eq!((resident.busy(), resident.fault()), (0, None));
    });
}

#[test]
fn runner_of_another_version_or_without_a_greeting_is_refused_with_what_to_do() {
    block(async {
        let (_resident, greeting, runner) = pair();
        runner.say(&FromRunner::Hello { version: VERSION + 1 });
        let refusal = greeting.wait(Duration::from_secs(30)).await.unwrap_err();
        assert!(refusal.message.contains("deploy/sandbox-image/build"), "{refusal}");
        let (_resident, greeting, runner) = pair();
        runner.say(&output(Nonce([0; 16]), b"x"));
        assert!(greeting.wait(Duration::from_secs(30)).await.unwrap_err().message.contains("does not greet"));
        let (_resident, greeting, runner) = pair();
        drop(runner);
        assert_eq!(greeting.wait(Duration::from_secs(30)).await.unwrap_err().rule.as_str(), "sandbox.runner");
    });
}

#[test]
fn whatever_breaks_the_protocol_ends_the_connection_and_every_run_is_lost() {
    type Lie = fn(Nonce) -> Vec<Vec<u8>>;
    let lies: [(&str, Lie); 8] = [
        ("greets twice", |_| vec![frame(&FromRunner::Hello { version: VERSION }).unwrap()]),
        ("output of no run", |_| vec![frame(&output(Nonce([9; 16]), b"x")).unwrap()]),
        ("end of no run", |_| {
            vec![frame(&FromRunner::Ended { nonce: Nonce([9; 16]), ending: Ending::Exited(0) }).unwrap()]
        }),
        ("input of no run", |_| vec![frame(&FromRunner::Taken { nonce: Nonce([9; 16]), bytes: 1 }).unwrap()]),
        ("input that was never given", |nonce| vec![frame(&FromRunner::Taken { nonce, bytes: 1 }).unwrap()]),
        ("more than the credit", |nonce| vec![frame(&output(nonce, &[0; CHUNK])).unwrap(); 17]),
        ("a length over the cap", |_| vec![u32::MAX.to_le_bytes().to_vec()]),
        ("no value", |_| vec![vec![3, 0, 0, 0, 0xff, 0xff, 0xff]]),
    ];
    for (what, lie) in lies {
        block(async {
            let (resident, runner, mut job, nonce) = running(false).await;
            for bytes in lie(nonce) {
                runner.bytes(bytes);
            }
            loop {
                match job.next().await {
                    Some(Event::Output { .. }) => {}
                    Some(Event::Ended(end)) => break assert_eq!(end, Ok(RunEnd::Lost), "{what}"),
                    None => panic!("{what}: no end"),
                }
            }
            assert!(resident.fault().unwrap().contains("breaks the protocol"), "{what}: {:?}", resident.fault());
            assert_eq!(resident.start(launch(false)).err().unwrap().rule.as_str(), "sandbox.runner", "{what}");
        });
    }
}

#[test]
fn credit_comes_back_as_output_is_read_and_all_of_it_where_nobody_reads() {
    block(async {
        let (resident, mut runner, mut job, nonce) = running(false).await;
        let mut credit = u64::from(CREDIT);
        // Ten times the credit, and never more at once.
        for _ in 0..160 {
            while credit < cost(CHUNK) {
                assert!(matches!(job.next().await, Some(Event::Output { .. })));
                while let Ok(word) = tokio::time::timeout(Duration::from_millis(1), runner.hear()).await {
                    let ToRunner::Credit { cost, .. } = word else { panic!("{word:?}") };
                    credit += u64::from(cost);
                }
            }
            credit -= cost(CHUNK);
            runner.say(&output(nonce, &[0; CHUNK]));
        }
        drop(job);
        // Now nobody reads: it is told to end, and its output is passed over as it comes.
        let mut killed = false;
        for _ in 0..160 {
            while credit < cost(CHUNK) {
                match runner.hear().await {
                    ToRunner::Credit { cost, .. } => credit += u64::from(cost),
                    ToRunner::Kill { .. } => killed = true,
                    other => panic!("{other:?}"),
                }
            }
            credit -= cost(CHUNK);
            runner.say(&output(nonce, &[0; CHUNK]));
        }
        runner.say(&FromRunner::Ended { nonce, ending: Ending::Killed });
        while !killed {
            killed = matches!(runner.hear().await, ToRunner::Kill { .. });
        }
        while resident.busy() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(resident.fault(), None);
    });
}

#[test]
fn input_that_is_not_read_is_refused_and_taken_again_once_it_was() {
    block(async {
        let (_resident, mut runner, job, nonce) = running(true).await;
        let handle = job.handle();
        handle.give(vec![0; INPUT], false).unwrap();
        assert_eq!(handle.give(vec![0; 1], false).unwrap_err().rule.as_str(), "process.input_full");
        for _ in 0..2 {
            assert!(matches!(runner.hear().await, ToRunner::Input { eof: false, .. }));
        }
        runner.say(&FromRunner::Taken { nonce, bytes: u32::try_from(INPUT).unwrap() });
        while handle.give(vec![1; 1], true).is_err() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(runner.hear().await, ToRunner::Input { eof: true, .. }));
        assert_eq!(handle.give(vec![1; 1], false).unwrap_err().rule.as_str(), "process.no_input");
        let (_resident, _runner, job, _) = running(false).await;
        assert_eq!(job.handle().give(vec![1; 1], false).unwrap_err().rule.as_str(), "process.no_input");
    });
}

proptest! {
    #[test]
    fn arbitrary_bytes_end_the_connection_or_wait_for_more(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
    ) {
        block(async {
            let (resident, runner, job, _) = running(false).await;
            for piece in pieces {
                runner.bytes(piece);
            }
            drop(runner);
            let mut job = job;
            let end = job.next().await;
            assert!(matches!(end, Some(Event::Ended(Ok(RunEnd::Lost)))), "{end:?}");
            assert!(resident.fault().is_some());
        });
    }
}
