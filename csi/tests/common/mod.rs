//! The built `cairn-csi` beside a target that answers by rote, and a plain gRPC client.

use cairn_csi::messages::{GetMetadataAllocatedRequest, GetMetadataDeltaRequest, GetMetadataResponse};
use cairn_csi::routes::{GET_METADATA_ALLOCATED, GET_METADATA_DELTA};
use cairn_target::config::VolumeConfig;
use cairn_target::paths::Paths;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

pub const SIZE_BYTES: u64 = 1 << 40;

/// What the target of volume `web` says: to each path its status and body. Snapshots are `one`, `two` and `three`.
pub type Script = Arc<dyn Fn(&str, &BTreeMap<String, String>) -> (u16, String) + Send + Sync>;

/// Everything a test needs; ended when dropped.
pub struct Scene {
    pub directory: TempDir,
    /// Every question the target got.
    pub asked: Arc<Mutex<Vec<String>>>,
    server: Child,
}

impl Scene {
    pub fn new(script: impl Fn(&str, &BTreeMap<String, String>) -> (u16, String) + Send + Sync + 'static) -> Scene {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let paths = Paths::resolve(Some(path("state")), Some(path("run")), Some(path("dev")));
        for volume in ["web", "detached"] {
            VolumeConfig::new(volume, "/origin", "/store").save(&paths, false).expect("configured");
        }
        std::fs::create_dir_all(path("run/web")).expect("a directory");
        let listener = UnixListener::bind(path("run/web/control.sock")).expect("listens");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (script, notes) = (Arc::new(script) as Script, asked.clone());
        std::thread::spawn(move || answer_all(&listener, &script, &notes));
        let server = Command::new(env!("CARGO_BIN_EXE_cairn-csi"))
            .arg(format!("--endpoint=unix://{}", path("csi.sock").display()))
            .arg(format!("--state-dir={}", path("state").display()))
            .arg(format!("--run-dir={}", path("run").display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("cairn-csi runs");
        let scene = Scene { directory, asked, server };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !scene.socket().exists() {
            assert!(Instant::now() < deadline, "cairn-csi does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        scene
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("csi.sock")
    }

    pub fn process(&self) -> u32 {
        self.server.id()
    }

    /// Waits for the end of the server that somebody ended.
    pub fn wait(&mut self) -> bool {
        self.server.wait().expect("it can be waited for").success()
    }

    pub async fn allocated(&self, request: GetMetadataAllocatedRequest) -> Result<Vec<GetMetadataResponse>, Status> {
        self.call(GET_METADATA_ALLOCATED, request).await
    }

    pub async fn delta(&self, request: GetMetadataDeltaRequest) -> Result<Vec<GetMetadataResponse>, Status> {
        self.call(GET_METADATA_DELTA, request).await
    }

    /// All messages of one call, or the status that it, or its stream, ended with.
    pub async fn call<R: prost::Message + Default + 'static>(
        &self,
        path: &'static str,
        request: R,
    ) -> Result<Vec<GetMetadataResponse>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel().await);
        client.ready().await.expect("the server is ready");
        let codec: ProstCodec<R, GetMetadataResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        let mut stream = client.server_streaming(Request::new(request), path, codec).await?.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    async fn channel(&self) -> Channel {
        let socket = self.socket();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://csi").connect_with_connector(connector).await.expect("connects")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn answer_all(listener: &UnixListener, script: &Script, asked: &Mutex<Vec<String>>) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("a client");
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut first = String::new();
        let mut line = String::new();
        reader.read_line(&mut first).expect("a request line");
        while reader.read_line(&mut line).expect("a header") > 2 {
            line.clear();
        }
        let target = first.split(' ').nth(1).expect("a path").to_owned();
        asked.lock().expect("not poisoned").push(target.clone());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let (status, body) = match path {
            "/v1/snapshots" => (200, snapshots()),
            _ => script(path, &query),
        };
        let length = body.len();
        // The client may have gone.
        let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    }
}

fn snapshots() -> String {
    let one = |(name, epoch): (&str, u64)| {
        format!(r#"{{"name":"{name}","epoch":{epoch},"size_bytes":{SIZE_BYTES},"state":"whole","new_key":null}}"#)
    };
    let all = [("one", 1), ("two", 2), ("three", 5)].map(one).join(",");
    format!(r#"{{"volume":"web","snapshots":[{all}]}}"#)
}

/// The page of `extents` that a question asks for, as the control API gives it.
pub fn page(extents: &[(u64, u64, &str)], query: &BTreeMap<String, String>) -> (u16, String) {
    let number = |key: &str| query[key].parse::<u64>().expect("a number");
    let (offset, max) = (number("offset"), number("max") as usize);
    let rest: Vec<_> = extents.iter().filter(|(start, length, _)| start + length > offset).collect();
    let shown: Vec<String> = rest
        .iter()
        .take(max)
        .map(|(start, length, kind)| {
            let from = (*start).max(offset);
            let length = start + length - from;
            format!(r#"{{"offset_bytes":{from},"length_bytes":{length},"kind":"{kind}"}}"#)
        })
        .collect();
    let next = rest.get(max).map_or("null".to_owned(), |_| (rest[max - 1].0 + rest[max - 1].1).to_string());
    let shown = shown.join(",");
    (200, format!(r#"{{"size_bytes":{SIZE_BYTES},"extents":[{shown}],"next_offset_bytes":{next}}}"#))
}

/// An error as the control API gives it.
pub fn error(status: u16, kind: &str) -> (u16, String) {
    (status, format!(r#"{{"error":{{"kind":"{kind}","message":"as told","errno":5}}}}"#))
}
