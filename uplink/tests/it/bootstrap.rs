//! Bootstrap servers of each generation, as small as can be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use millrace_uplink::Secret;
use millrace_uplink::bootstrap::mainflux::fetch;
use millrace_uplink::bootstrap::{
    Authorization, BootstrapError, MainfluxSettings, Outcome, REPLY_BYTES_MAX,
};

use crate::pki::Pki;

/// What a request said: path and `Authorization`.
type Request = (String, String);

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers every request by `answer` until the test ends.
    fn start(answer: impl Fn(&Request) -> (u16, Vec<u8>) + Send + 'static) -> Self {
        Self::start_with(None, answer)
    }

    fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request) -> (u16, Vec<u8>) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                match &tls {
                    None => serve(&mut stream, &log, &answer),
                    Some(config) => {
                        let session = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                        let mut stream = rustls::StreamOwned::new(session, stream);
                        serve(&mut stream, &log, &answer);
                    }
                }
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn settings(&self, path: &str) -> MainfluxSettings {
        MainfluxSettings {
            url: format!("http://{}{path}", self.address),
            external_id: "gw 1".into(),
            external_key: Secret::new("s3cret"),
            ca_file: None,
            authorization: Authorization::Auto,
        }
    }
}

/// One request, one answer. A client that goes away is its own affair.
fn serve(
    stream: &mut (impl Read + Write),
    log: &Mutex<Vec<Request>>,
    answer: &impl Fn(&Request) -> (u16, Vec<u8>),
) {
    let mut reader = BufReader::new(stream);
    let mut request = Request::default();
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    request.0 = line.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        line.clear();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            request.1 = value.trim_end().to_owned();
        }
    }
    log.lock().unwrap().push(request.clone());
    let (status, body) = answer(&request);
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let stream = reader.into_inner();
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
    let _ = stream.flush();
}

/// A server that takes only this header, and answers others as its generation does.
fn generation(header: &'static str, refusal: u16, body: &'static str) -> Server {
    Server::start(move |(_, authorization)| {
        if authorization == header {
            (200, body.into())
        } else {
            (refusal, br#"{"error":"no"}"#.to_vec())
        }
    })
}

#[test]
fn mainflux_0_12_raw_key() {
    let server = generation(
        "s3cret",
        404,
        r#"{"mainflux_id":"t1","mainflux_key":"k1","mainflux_channels":[{"id":"c1","name":"data","metadata":{"a":1}}],"content":"a = 1"}"#,
    );
    let enrolment = fetch(&server.settings("/things/bootstrap/")).unwrap();
    assert_eq!(enrolment.id, "t1");
    assert_eq!(enrolment.key.unwrap().expose(), "k1");
    assert_eq!(enrolment.channels[0].id, "c1");
    assert_eq!(enrolment.channels[0].name.as_deref(), Some("data"));
    assert_eq!(enrolment.content.as_deref(), Some("a = 1"));
    assert_eq!(enrolment.authorization, Authorization::Raw);
    let headers: Vec<String> = server.requests().into_iter().map(|(_, h)| h).collect();
    assert_eq!(headers, ["Thing s3cret", "s3cret"]);
    assert_eq!(server.requests()[0].0, "/things/bootstrap/gw%201");
}

#[test]
fn magistrala_0_15_thing_key() {
    let server = generation(
        "Thing s3cret",
        401,
        r#"{"thing_id":"t2","thing_key":"k2","channels":null,"content":"{\"a\":1}","client_cert":"CERT","client_key":"KEY","ca_cert":"CA"}"#,
    );
    let enrolment = fetch(&server.settings("/things/bootstrap")).unwrap();
    assert_eq!(enrolment.id, "t2");
    assert_eq!(enrolment.key.unwrap().expose(), "k2");
    assert!(enrolment.channels.is_empty());
    assert_eq!(enrolment.content.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(enrolment.client_cert.as_deref(), Some("CERT"));
    assert_eq!(enrolment.client_key.unwrap().expose(), "KEY");
    assert_eq!(enrolment.ca_cert.as_deref(), Some("CA"));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn magistrala_0_20_client_secret() {
    let server = generation(
        "Client s3cret",
        401,
        r#"{"client_id":"c3","client_secret":"k3","channels":[{"id":"x"}],"content":""}"#,
    );
    let enrolment = fetch(&server.settings("/clients/bootstrap")).unwrap();
    assert_eq!(enrolment.id, "c3");
    assert_eq!(enrolment.key.unwrap().expose(), "k3");
    assert_eq!(enrolment.channels.len(), 1);
    assert_eq!(enrolment.content, None);
    assert_eq!(enrolment.authorization, Authorization::Client);
    assert_eq!(server.requests().len(), 1, "the path tells the generation");
}

#[test]
fn magistrala_0_30_everything_in_the_content() {
    let server = generation(
        "Client s3cret",
        401,
        r#"{"id":"e4","content":{"uplink":[]}}"#,
    );
    let mut settings = server.settings("/behind/a/proxy");
    let enrolment = fetch(&settings).unwrap();
    assert_eq!(enrolment.id, "e4");
    assert_eq!(enrolment.key, None);
    assert_eq!(enrolment.content.as_deref(), Some(r#"{"uplink":[]}"#));
    assert_eq!(server.requests().len(), 3);
    // What worked is tried alone the next time.
    settings.authorization = enrolment.authorization;
    fetch(&settings).unwrap();
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn not_enrolled_is_denied_with_the_telling_status() {
    let server = Server::start(|(_, header)| match header.starts_with("Thing ") {
        true => (403, Vec::new()),
        false => (401, Vec::new()),
    });
    let error = fetch(&server.settings("/things/bootstrap")).unwrap_err();
    assert!(
        matches!(error, BootstrapError::Denied { status: 403, .. }),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::Denied);
    assert_eq!(server.requests().len(), 3);
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn other_statuses_are_told_apart() {
    for (status, outcome) in [
        (500, Outcome::Transient),
        (503, Outcome::Transient),
        (429, Outcome::Transient),
        (400, Outcome::Denied),
        (302, Outcome::Denied),
    ] {
        let server = Server::start(move |_| (status, b"busy".to_vec()));
        let error = fetch(&server.settings("/things/bootstrap")).unwrap_err();
        assert_eq!(error.outcome(), outcome, "{status}: {error}");
        assert_eq!(
            server.requests().len(),
            1,
            "{status} is no reason for another spelling"
        );
    }
}

#[test]
fn nobody_there_is_transient() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = MainfluxSettings {
        url: format!("http://{address}/things/bootstrap"),
        ..generation("", 401, "").settings("")
    };
    let error = fetch(&settings).unwrap_err();
    assert!(matches!(error, BootstrapError::Network { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Transient);
}

#[test]
fn garbage_is_named() {
    for (body, place) in [
        ("<html>login</html>", "line 1, column 1"),
        ("{\"thing_id\":", "line 1, column 12"),
        ("{\"thing_id\": 5}", "line 1, column"),
        ("[]", "line 1, column"),
        (
            "{\"thing_id\":\"t\",\n\"channels\": [{}]}",
            "line 2, column",
        ),
        ("{}", "the member mainflux_id, thing_id, client_id or id"),
        ("{\"thing_id\":\"\"}", "the member mainflux_id"),
    ] {
        let server = Server::start(move |_| (200, body.into()));
        let error = fetch(&server.settings("/things/bootstrap")).unwrap_err();
        let BootstrapError::Malformed { place: got, .. } = &error else {
            panic!("{body} gave {error}");
        };
        assert!(got.starts_with(place), "{body}: {error}");
        assert_eq!(error.outcome(), Outcome::Denied);
    }
}

#[test]
fn a_huge_body_is_not_read_to_its_end() {
    let server = Server::start(|_| (200, vec![b' '; REPLY_BYTES_MAX as usize + 1]));
    let error = fetch(&server.settings("/things/bootstrap")).unwrap_err();
    assert!(matches!(error, BootstrapError::Malformed { .. }), "{error}");
}

#[test]
fn wrong_settings_send_nothing() {
    let server = generation("", 401, "");
    for url in [
        "core.example",
        "ftp://core.example/x",
        "https://",
        "https://me:pw@core/x",
        "https://core/x?id=1",
    ] {
        let settings = MainfluxSettings {
            url: url.into(),
            ..server.settings("")
        };
        let error = fetch(&settings).unwrap_err();
        assert!(
            matches!(error, BootstrapError::Settings { key: "url", .. }),
            "{url}: {error}"
        );
    }
    let settings = MainfluxSettings {
        external_id: String::new(),
        ..server.settings("")
    };
    let error = fetch(&settings).unwrap_err();
    assert!(
        matches!(
            error,
            BootstrapError::Settings {
                key: "external_id",
                ..
            }
        ),
        "{error}"
    );
    assert!(server.requests().is_empty());
}

#[test]
fn https_is_verified() {
    let pki = Pki::new();
    let server = Server::start_with(Some(pki.open_server_config()), |_| {
        (200, br#"{"thing_id":"t","thing_key":"k"}"#.to_vec())
    });
    let settings = |pki: &Pki| MainfluxSettings {
        url: format!(
            "https://localhost:{}/things/bootstrap",
            server.address.port()
        ),
        ca_file: Some(pki.ca_file()),
        ..server.settings("")
    };
    assert_eq!(fetch(&settings(&pki)).unwrap().id, "t");
    let error = fetch(&settings(&Pki::new())).unwrap_err();
    assert!(
        matches!(error, BootstrapError::Untrusted { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("not signed by a CA that we trust"),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::Denied);
    assert_eq!(
        server.requests().len(),
        1,
        "the key was not sent to a stranger"
    );
}
