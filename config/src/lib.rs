//! Under construction.
#![allow(missing_docs, reason = "x")]
#[derive(Debug, Default)] pub struct Config { pub gateway: Gateway, pub egress: Egress }
#[derive(Debug, Default)] pub struct Gateway { pub port: u16 }
#[derive(Debug, Default)] pub struct Egress { pub allow: Vec<String> }
#[derive(Clone, Copy, Debug)] pub enum Backend { Auto, Docker, Native }
impl Config {
    pub fn load(_: &std::path::Path) -> Result<Self, String> { Ok(Self::default()) }
    pub fn docker_socket(&self) -> &str { "/var/run/docker.sock" }
    pub fn sandbox_image(&self) -> &str { "moltbot-sandbox:latest" }
    pub fn sandbox_backend(&self) -> Backend { Backend::Auto }
    pub fn redacted_json(&self) -> String { "{}".into() }
}
