//! The controls that are processes: this program again, doing the least that the thing it stands beside must do.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proto::channel::Channel;
use proto::wire::MAX_FRAME;
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A control at work; ends with this value.
pub struct Control {
    child: Child,
    /// Where it listens, if it does.
    pub port: u16,
}

impl Control {
    /// `http` or `echo`, on loopback.
    pub fn listening(kind: &str) -> Self {
        let mut child = Self::command(kind).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    /// An echo of packets, and our end of it.
    pub fn packets() -> (Self, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs: OwnedFd = theirs.into_fd();
        let child = Self::command("packets").stdin(Stdio::from(theirs)).spawn().unwrap();
        (Self { child, port: 0 }, ours)
    }

    /// As [`Control::packets`], but each packet is written to a file and made durable before it is sent back.
    pub fn durable_packets(dir: &Path) -> (Self, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs: OwnedFd = theirs.into_fd();
        let file = File::create(dir.join("packets")).unwrap();
        let child = Self::command("durable").stdin(Stdio::from(theirs)).stdout(Stdio::from(file)).spawn().unwrap();
        (Self { child, port: 0 }, ours)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn command(kind: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["control", kind]).stdin(Stdio::null());
        command
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves as a control until it is ended.
pub fn serve(kind: &str) {
    // A session of its own, as a role has. The kernel shares a busy machine out among sessions first (sched_autogroup): in that of
    // whoever measures it would have his share, and not have to wait for a turn of its own when it is woken.
    let _ = rustix::process::setsid();
    if kind == "packets" || kind == "durable" {
        return packets(kind == "durable");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let is_http = kind == "http";
    runtime.block_on(async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap().port());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            if is_http {
                let service = hyper::server::conn::http1::Builder::new();
                tokio::spawn(service.serve_connection(TokioIo::new(stream), service_fn(health)));
            } else {
                tokio::spawn(echo(stream));
            }
        }
    });
}

async fn health(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut answer = Response::new(Full::new(Bytes::from_static(b"{\"ok\":true,\"status\":\"live\"}")));
    let headers = answer.headers_mut();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("cache-control", "no-store".parse().unwrap());
    headers.insert("x-content-type-options", "nosniff".parse().unwrap());
    Ok(answer)
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let mut bytes = vec![0u8; 65_536];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

fn packets(durable: bool) {
    let mut file = File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap());
    let channel = Channel::from_fd(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    while let Ok(packet) = channel.recv_by(MAX_FRAME, 0, Instant::now() + Duration::from_secs(600)) {
        if durable {
            // As many bytes as a line of the log has.
            file.write_all(&[b'x'; 400]).unwrap();
            file.sync_data().unwrap();
        }
        channel.send(&packet.bytes, &[]).unwrap();
    }
}
