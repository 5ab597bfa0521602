//! The client of the local API: HTTP/1 over the agent's Unix socket.

mod lines;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use millrace_drivers::modbus::Transport;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub(crate) use lines::Lines;

use super::{Failure, Global};
use crate::api::TUNNEL;
use crate::report::ApiError;

/// Where the packaged agent listens.
const SOCKET_DEFAULT: &str = "/run/millrace/millrace.sock";
/// The socket's name in a data directory.
pub(crate) const SOCKET_NAME: &str = "millrace.sock";
/// An answer above this is not from our agent: 100,000 tags are about 20 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The trailer in which the agent says what came of a long answer.
pub(crate) const OUTCOME: &str = "x-millrace-outcome";

/// Talks to a running agent.
pub(crate) struct Client {
    sockets: Vec<PathBuf>,
}

impl Client {
    /// The agent that the options and the environment name. Nothing is opened yet.
    pub(crate) fn new(global: &Global) -> Self {
        let sockets = match &global.socket {
            Some(socket) => vec![socket.clone()],
            None => vec![
                PathBuf::from(SOCKET_DEFAULT),
                global.data_dir().join(SOCKET_NAME),
            ],
        };
        Self { sockets }
    }

    /// Asks.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        block_on(async { decode(self.send(Method::GET, path, None).await?).await })
    }

    /// Tells, and takes the answer.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        block_on(self.ask(path, body))
    }

    /// Hands over these bytes, and takes the answer.
    pub(crate) fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        block_on(async { decode(self.send(Method::POST, path, Some(body)).await?).await })
    }

    /// Hands over every object of an endless answer as it comes, until the agent stops or Ctrl-C.
    pub(crate) fn follow<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        block_on(async {
            let mut lines = self.lines(path).await?;
            let following = async {
                while let Some(object) = lines.next().await? {
                    each(object)?;
                }
                Ok(())
            };
            tokio::select! {
                followed = following => followed,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
    }

    /// The objects of an endless answer.
    pub(crate) async fn lines(&self, path: &str) -> anyhow::Result<Lines> {
        let answer = succeeded(self.send(Method::GET, path, None).await?).await?;
        Ok(Lines::new(answer.into_body()))
    }

    /// [`Client::post`]. `None`: no agent listens.
    pub(crate) fn post_if_running<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Option<T>> {
        let body = serde_json::to_vec(body)?;
        block_on(async {
            let Ok(stream) = self.find().await? else {
                return Ok(None);
            };
            let answer = send_over(stream, Method::POST, path, Some(body)).await?;
            decode(answer).await.map(Some)
        })
    }

    /// Copies an answer to `out` as it comes, and returns what the agent says at its end. `None`: no agent
    /// listens.
    pub(crate) fn copy<T: DeserializeOwned>(
        &self,
        path: &str,
        out: &mut dyn Write,
        mut each: impl FnMut(usize),
    ) -> anyhow::Result<Option<T>> {
        block_on(async {
            let Ok(stream) = self.find().await? else {
                return Ok(None);
            };
            let answer = send_over(stream, Method::GET, path, None).await?;
            let mut body = succeeded(answer).await?.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| broke_off().because(error))?;
                if let Some(data) = frame.data_ref() {
                    out.write_all(data)?;
                    each(data.len());
                }
                if let Some(end) = frame.trailers_ref().and_then(|t| t.get(OUTCOME)) {
                    out.flush()?;
                    return Ok(Some(
                        serde_json::from_slice(end.as_bytes()).map_err(unreadable)?,
                    ));
                }
            }
            Err(broke_off().into())
        })
    }

    /// Asks, inside of a command's own runtime. `None`: no agent listens.
    pub(crate) async fn fetch_if_running<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<Option<T>> {
        let Ok(stream) = self.find().await? else {
            return Ok(None);
        };
        let answer = send_over(stream, Method::GET, path, None).await?;
        decode(answer).await.map(Some)
    }

    /// [`Client::post`], inside of a command's own runtime.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        decode(self.send(Method::POST, path, Some(body)).await?).await
    }

    /// Turns a connection to the agent into one that speaks Modbus TCP with units of a line.
    pub(crate) async fn tunnel(&self, path: &str) -> anyhow::Result<Box<dyn Transport>> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .uri(path)
            .header("host", "millrace")
            .header("connection", "upgrade")
            .header("upgrade", TUNNEL)
            .body(Full::new(Bytes::new()))?;
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            succeeded(answer).await?;
            return Err(broke_off().into());
        }
        Ok(Box::new(TokioIo::new(hyper::upgrade::on(answer).await?)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Response<Incoming>> {
        send_over(self.connect().await?, method, path, body).await
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        match self.find().await? {
            Ok(stream) => Ok(stream),
            Err(tried) => Err(Failure::new(format!("no agent listens on {tried}"))
                .hint(
                    "is it running? `millrace run` starts it; --socket or MILLRACE_SOCKET names \
                 another socket",
                )
                .into()),
        }
    }

    /// The first socket where an agent listens, or what was tried.
    async fn find(&self) -> anyhow::Result<Result<UnixStream, String>> {
        let mut tried = Vec::new();
        for socket in &self.sockets {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Ok(Ok(stream)),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(not_permitted(socket).into());
                }
                Err(error) => tried.push(format!("{} ({})", socket.display(), reason(&error))),
            }
        }
        Ok(Err(tried.join(" or on ")))
    }
}

async fn send_over(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body; an error of it comes out of the request.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "millrace")
        .header("content-type", "application/json")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    Ok(sender.send_request(request).await.map_err(|error| {
        Failure::new("the agent hung up before it answered")
            .because(error)
            .hint("its log says why")
    })?)
}

fn broke_off() -> Failure {
    Failure::new("the agent's answer broke off").hint("its log says why")
}

fn not_permitted(socket: &Path) -> Failure {
    Failure::new(format!("{} may not be opened by you", socket.display()))
        .hint("become a member of group millrace (`adduser YOU millrace`, then log in again), or use sudo")
}

fn reason(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "no such file",
        ErrorKind::ConnectionRefused => "nobody answers",
        _ => "it cannot be opened",
    }
}

/// Runs one exchange on a runtime of its own: a command has nothing else to do.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn decode<T: DeserializeOwned>(answer: Response<Incoming>) -> anyhow::Result<T> {
    let answer = succeeded(answer).await?;
    let body = collect(answer.into_body()).await?;
    Ok(serde_json::from_slice(&body).map_err(unreadable)?)
}

/// The answer, or what the agent has against the request.
async fn succeeded(answer: Response<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = collect(answer.into_body()).await?;
    let failure = match serde_json::from_slice::<ApiError>(&body) {
        Ok(ApiError { error, hint }) => {
            let failure = Failure::new(error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        }
        Err(_) => Failure::new(format!("the agent answered {status}"))
            .hint("compare `millrace --version` with the agent's version in its log"),
    };
    Err(failure.into())
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure::new("the agent's answer cannot be read")
        .because(error)
        .hint("the running agent may be of another version: restart it after an upgrade")
}

async fn collect(body: Incoming) -> anyhow::Result<Bytes> {
    Ok(http_body_util::Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| Failure::new("the agent's answer broke off").because(error))?
        .to_bytes())
}

/// Text as it may stand in a query.
pub(crate) fn query(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/*".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
