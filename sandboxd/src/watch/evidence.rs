//! What is kept of a container that stands still.

use super::Watch;
use super::processes::Found;
use super::status::Process;
use crate::runs::lock;
use std::time::Duration;
use tokio::time::timeout;

impl Watch {
    /// Pieces of evidence, each with its name. The engine may take so long for each of its own.
    pub async fn evidence(&self, id: &str, exec: Option<&str>) -> Vec<(&'static str, String)> {
        let mut pieces = Vec::new();
        let wait = Duration::from_millis(500);
        if let Some(processes) = self.processes() {
            let found = processes.of_containers(&[id.to_owned()]).unwrap_or_default();
            let lines: Vec<String> = found.iter().map(line).collect();
            pieces.push(("processes", lines.join("\n")));
            let pid = lock(&self.state).containers.get(id).map(|watched| watched.pid).unwrap_or_default();
            pieces.extend(processes.mounts(pid).map(|text| ("mounts", text)));
        }
        if let Some(exec) = exec
            && let Ok(Ok(found)) = timeout(wait, self.docker.inspect_exec(exec)).await
        {
            pieces.push(("exec", serde_json::to_string(&found).unwrap_or_default()));
        }
        if let Ok(Ok(found)) = timeout(wait, self.docker.inspect_container(id, None)).await {
            let watched = lock(&self.state).containers.get(id).cloned();
            let drift = watched.map(|watched| self.drift(&found, id, &watched)).unwrap_or_default();
            pieces.push(("drift", drift.join("\n")));
            pieces.push(("inspect", serde_json::to_string(&found).unwrap_or_default()));
        }
        if let Ok(Ok(changes)) = timeout(wait, self.docker.container_changes(id)).await {
            let lines: Vec<String> = changes.unwrap_or_default().into_iter().map(|change| change.path).collect();
            pieces.push(("changed-files", lines.join("\n")));
        }
        pieces
    }
}

fn line(found: &Found) -> String {
    let Process { name, uids, gids, capabilities, no_new_privs, seccomp, parent, .. } = &found.process;
    let pid = found.pid;
    format!(
        "{pid} parent {parent} uids {uids:?} gids {gids:?} capabilities {capabilities:x} no_new_privs {} seccomp {seccomp} {name:?}",
        u8::from(*no_new_privs)
    )
}
