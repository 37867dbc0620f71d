//! moltbot-vault: the start order of the keeper of secrets. Heap and stack are in secret memory from the first block on;
//! the key and the store are opened before the walls go up; behind them it can replace its store and open nothing else.
#![forbid(unsafe_code)]

use confine::secret_memory::{self, Heap};
use confine::startup::{Start, StartError};
use proto::control::{Resource, RoleConfig};
use proto::exit::Exit;
use proto::ids::Role;
use std::os::fd::AsFd;
use std::process::ExitCode;
use vault::senders::configured::Configured;
use vault::state::State;
use vault::state::front::Opened;
use vault::{locked, policy, serve};

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    secret_memory::on_secret_stack(|| confine::startup::run(Role::Vault, start))
}

fn start(mut start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Vault { senders, answers } = start.config() else { return Err(start.wrong_config()) };
    let configured = Configured::read(senders.iter().map(|line| line.as_str())).map_err(StartError::permanent)?;
    let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
    if let Some(lack) = secret_memory::lack() {
        start.weaker(lack);
    }
    confine::privileges::answer_file_size_limit_with_errno()
        .map_err(|errno| StartError::internal(format!("SIGXFSZ cannot be blocked: {errno}")))?;
    let keys = start.take(Resource::KeyDir)?;
    let store = start.take(Resource::VaultDir)?;
    let directory = store.try_clone().map_err(StartError::internal)?;
    let credential = start.take_where_sent(Resource::MasterKey);
    let opened = State::open_or_wait(&keys, directory, credential.as_ref())?;
    drop((keys, credential));
    let (sealed, control) = start.seal(&policy::POLICY, &[(Resource::VaultDir, store.as_fd())])?;
    drop(store);
    match opened {
        Opened::State(state) => serve::serve(&sealed, &control, state.configure(configured), answers),
        Opened::Locked(store) => locked::serve(&sealed, &control, store, configured, answers),
    }
}
