//! The API over a real socket, and what a stranger gets.

use std::sync::Arc;

use axum::Extension;
use axum::extract::ConnectInfo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::peer::{Peer, Role};
use super::routes::Door;
use crate::config::Config;
use crate::report::ConfigStatus;
use crate::supervisor::{Current, Running, Startup, start};

/// A gateway without devices, in a directory of its own.
async fn running(dir: &std::path::Path) -> Running {
    let (changes, _) = crate::apply::Changes::channel(None, None);
    let journal = crate::command::Journal::open(dir);
    let startup = Startup {
        journal: journal.into(),
        changes,
        on_trial: false,
        config: Config::empty(dir),
        config_status: ConfigStatus::default(),
        clock: Arc::new(millrace_tags::SystemClock::new()),
        started: std::time::Instant::now(),
        bootstrap: Arc::default(),
    };
    start(startup).await.unwrap()
}

/// One request over the socket; the status line and the whole answer.
async fn ask(path: &std::path::Path, request: &str, body: &Value) -> String {
    let body = body.to_string();
    let text = format!(
        "{request} HTTP/1.1\r\nhost: millrace\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn routes_answer_over_the_socket_until_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    let door: Door = Current::new(running.gateway.clone());
    let path = dir.path().join("api/millrace.sock");
    let shutdown = CancellationToken::new();
    let serving = super::serve(&path, door.clone(), shutdown.clone()).unwrap();

    for route in [
        "status",
        "devices",
        "tags",
        "events",
        "ledger",
        "ledger?verify=1",
        "buffer",
        "config",
    ] {
        let answer = ask(&path, &format!("GET /v1/{route}"), &Value::Null).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{route}: {answer}");
    }
    let pause = json!({"name": "pump", "action": "pause"});
    let answer = ask(&path, "POST /v1/device", &pause).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("there is no device pump"), "{answer}");
    let answer = ask(&path, "POST /v1/read", &json!({"tags": ["a/b"]})).await;
    assert!(answer.contains("there is no tag a/b"), "{answer}");
    let answer = ask(&path, "POST /v1/device", &json!({"name": 7})).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let answer = ask(&path, "POST /v1/buffer/replay", &json!({"since": "soon"})).await;
    assert!(answer.contains("expected Unix milliseconds"), "{answer}");
    let elsewhere = json!({"since": 1, "uplink": "elsewhere"});
    let answer = ask(&path, "POST /v1/buffer/replay", &elsewhere).await;
    assert!(answer.contains("there is no uplink elsewhere"), "{answer}");
    let answer = ask(&path, "GET /v2/status", &Value::Null).await;
    assert!(answer.contains("no such route"), "{answer}");

    assert!(
        super::serve(&path, door, shutdown.clone()).is_err(),
        "one agent a socket"
    );
    shutdown.cancel();
    serving.await.unwrap();
    assert!(!path.exists());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_stranger_gets_nothing_but_a_way_in() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path()).await;
    for (role, status) in [
        (Role::Stranger, "403"),
        (Role::Engineer, "200"),
        (Role::Admin, "200"),
    ] {
        let path = dir.path().join(format!("{status}-{role:?}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let peer = Peer {
            uid: Some(65_534),
            role,
        };
        let router = super::routes::router(Current::new(running.gateway.clone()))
            .layer(Extension(ConnectInfo(peer)));
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        for request in ["GET /v1/status", "GET /v1/config"] {
            let answer = ask(&path, request, &Value::Null).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{request} of {role:?}: {answer}"
            );
            assert_eq!(
                answer.contains("add the user to group millrace"),
                status == "403"
            );
        }
        let purge = ask(&path, "POST /v1/buffer/purge", &json!({"log": "data"})).await;
        let granted = role == Role::Admin;
        assert_eq!(
            purge.starts_with("HTTP/1.1 200"),
            granted,
            "{role:?}: {purge}"
        );
        assert_eq!(purge.starts_with("HTTP/1.1 403"), !granted);
        let replay = json!({"since": 1});
        let replay = ask(&path, "POST /v1/buffer/replay", &replay).await;
        let granted = role >= Role::Engineer;
        assert_eq!(
            replay.starts_with("HTTP/1.1 200"),
            granted,
            "{role:?}: {replay}"
        );
        serving.abort();
    }
    running.stop().await.unwrap();
}
