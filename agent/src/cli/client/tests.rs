use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use serde_json::{Value, json};

use super::*;
use crate::cli::failure;

fn client(socket: &Path) -> Client {
    Client::new(&Global {
        socket: Some(socket.to_path_buf()),
        ..Global::default()
    })
}

/// Answers one request with the bytes; gives the request's head back.
fn answer_once(socket: &Path, answer: String) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    })
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let error = client(&socket).get::<Value>("/v1/status").unwrap_err();
    let text = failure::text(&error).replace(&*dir.path().to_string_lossy(), "DIR");
    insta::assert_snapshot!(text, @r"
    error: no agent listens on DIR/none.sock (no such file)
    hint: is it running? `millrace run` starts it; --socket or MILLRACE_SOCKET names another socket
    ");
}

#[test]
fn both_default_places_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(&Global {
        data_dir: Some(dir.path().to_path_buf()),
        ..Global::default()
    });
    assert_eq!(
        client.sockets,
        [
            PathBuf::from("/run/millrace/millrace.sock"),
            dir.path().join("millrace.sock")
        ]
    );
}

#[test]
fn a_dead_socket_is_told_from_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dead.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let error = client(&socket).get::<Value>("/v1/status").unwrap_err();
    assert!(error.to_string().contains("(nobody answers)"), "{error}");
}

#[test]
fn an_answer_is_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let server = answer_once(&socket, http("200 OK", r#"{"a":1}"#));
    let answer: Value = client(&socket)
        .post("/v1/read", &json!({"tags": ["x"]}))
        .unwrap();
    assert_eq!(answer, json!({"a": 1}));
    let request = server.join().unwrap();
    assert!(
        request.starts_with("POST /v1/read HTTP/1.1\r\n"),
        "{request}"
    );
}

#[test]
fn a_refusal_keeps_the_agents_words() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("b.sock");
    let body = r#"{"error":"uid 1000 may not pause a device","hint":"join group millrace"}"#;
    let server = answer_once(&socket, http("403 Forbidden", body));
    let error = client(&socket).get::<Value>("/v1/status").unwrap_err();
    server.join().unwrap();
    insta::assert_snapshot!(failure::text(&error), @r"
    error: uid 1000 may not pause a device
    hint: join group millrace
    ");
}

#[test]
fn an_answer_of_another_shape_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("c.sock");
    let server = answer_once(&socket, http("200 OK", "[1,2"));
    let error = client(&socket).get::<Vec<u8>>("/v1/status").unwrap_err();
    server.join().unwrap();
    let text = failure::text(&error);
    assert!(text.contains("the agent's answer cannot be read"), "{text}");
    assert!(text.contains("another version"), "{text}");
}

#[test]
fn a_stream_is_cut_into_lines() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("d.sock");
    let body = "7\r\n{\"n\":1}\r\n9\r\n\n{\"n\":2}\n\r\n1\r\n\n\r\n0\r\n\r\n";
    let server = answer_once(
        &socket,
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"),
    );
    let mut seen = Vec::new();
    client(&socket)
        .follow("/v1/tags?follow=1", |row: Value| {
            seen.push(row["n"].as_u64());
            Ok(())
        })
        .unwrap();
    server.join().unwrap();
    assert_eq!(seen, [Some(1), Some(2)]);
}

#[test]
fn queries_are_escaped() {
    assert_eq!(query("boiler/*"), "boiler/*");
    assert_eq!(query("a b&c=ü"), "a%20b%26c%3D%C3%BC");
}
