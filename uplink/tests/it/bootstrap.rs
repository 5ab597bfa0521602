//! Bootstrap servers of each generation, as small as can be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use millrace_uplink::bootstrap::{
    Attempt, BootstrapError, Contact, Enrolment, Generation, Mainflux, Outcome, Provider,
    REPLY_BYTES_MAX, ThingsBoard,
};
use millrace_uplink::{Secret, Trust};

use crate::mosquitto::Mosquitto;
use crate::pki::Pki;
use crate::proxy::PASSWORD;
use crate::subscriber::Subscriber;
use crate::transport::{login, pproxy};

/// What a request said: path and `Authorization`.
type Request = (String, String);

fn fetch(contact: &Contact) -> Result<Enrolment, BootstrapError> {
    fetch_as(contact, None)
}

fn fetch_as(
    contact: &Contact,
    generation: Option<Generation>,
) -> Result<Enrolment, BootstrapError> {
    ask(&Mainflux::new(contact.clone(), generation, None)?)
}

fn ask(provider: &impl Provider) -> Result<Enrolment, BootstrapError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(provider.ask(&Attempt::new("gw 1").unwrap()))
}

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

    fn settings(&self, path: &str) -> Contact {
        Contact {
            url: format!("http://{}{path}", self.address),
            external_id: "gw 1".into(),
            external_key: Some(Secret::new("s3cret")),
            trust: Trust::default(),
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
    assert_eq!(enrolment.generation, Some(Generation::Mainflux012));
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
    assert_eq!(enrolment.generation, Some(Generation::Magistrala030));
    assert_eq!(server.requests().len(), 1, "the path tells the generation");
}

#[test]
fn magistrala_0_30_everything_in_the_content() {
    let server = generation(
        "Client s3cret",
        401,
        r#"{"id":"e4","content":{"uplink":[]}}"#,
    );
    let settings = server.settings("/behind/a/proxy");
    let enrolment = fetch(&settings).unwrap();
    assert_eq!(enrolment.id, "e4");
    assert_eq!(enrolment.key, None);
    assert_eq!(enrolment.content.as_deref(), Some(r#"{"uplink":[]}"#));
    assert_eq!(server.requests().len(), 3);
    // What worked is tried alone the next time.
    fetch_as(&settings, enrolment.generation).unwrap();
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
    let settings = Contact {
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
fn the_core_is_asked_through_proxies_and_these_are_named_when_they_refuse() {
    let Some(proxy) = pproxy() else {
        return;
    };
    let pki = Pki::new();
    let answer = |_: &Request| (200, br#"{"thing_id":"t","thing_key":"k"}"#.to_vec());
    let plain = Server::start(answer);
    let tls = Server::start_with(Some(pki.open_server_config()), answer);
    // The proxy looks the name up, and TLS holds against the server behind it.
    let secure = Contact {
        url: format!("https://localhost:{}/things/bootstrap", tls.address.port()),
        trust: Trust {
            ca_file: Some(pki.ca_file()),
            ..Trust::default()
        },
        ..tls.settings("")
    };
    for scheme in ["http", "socks5"] {
        for direct in [plain.settings("/things/bootstrap"), secure.clone()] {
            let by = |password: &str| Contact {
                trust: Trust {
                    proxy: login(&proxy, scheme, password),
                    ..direct.trust.clone()
                },
                ..direct.clone()
            };
            assert_eq!(fetch(&by(PASSWORD)).unwrap().id, "t");
            let error = fetch(&by("wrong")).unwrap_err();
            assert_eq!(error.outcome(), Outcome::Transient);
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(&format!("the proxy {scheme}://")), "{cause}");
        }
    }
    let asked = plain.requests().len();
    let mut gone = plain.settings("/things/bootstrap");
    gone.trust.proxy = login(&proxy, "http", PASSWORD);
    drop(proxy);
    let error = fetch(&gone).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("no connection to the proxy"), "{cause}");
    assert_eq!(plain.requests().len(), asked, "nothing goes round it");
}

/// What a ThingsBoard answers on `/provision/response`, once: who answers, and what was asked.
async fn answer_provisioning(
    port: u16,
    reply: &'static str,
) -> tokio::task::JoinHandle<(Subscriber, serde_json::Value)> {
    let server = Subscriber::new(port, "/provision/request").await;
    tokio::spawn(async move {
        server.wait_for(1).await;
        let asked = server.messages().remove(0);
        let topic = "/provision/response";
        let sent = server
            .client
            .publish(topic, rumqttc::QoS::AtLeastOnce, false, reply);
        sent.await.unwrap();
        (server, serde_json::from_slice(&asked.payload).unwrap())
    })
}

#[tokio::test]
async fn thingsboard_provisions_by_mqtt() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let contact = Contact {
        url: format!("mqtt://127.0.0.1:{}", broker.plain),
        external_id: "gw 1".into(),
        external_key: Some(Secret::new("key:s3cret")),
        trust: Trust::default(),
    };
    let provider = ThingsBoard::new(contact.clone()).unwrap();
    let attempt = Attempt::new("gw 1").unwrap();
    let success =
        r#"{"status":"SUCCESS","credentialsType":"ACCESS_TOKEN","credentialsValue":"t0ken"}"#;
    let server = answer_provisioning(broker.plain, success).await;
    let enrolment = provider.ask(&attempt).await.unwrap();
    assert_eq!(enrolment.key.unwrap().expose(), "t0ken");
    assert_eq!(enrolment.uplink["url"], contact.url.as_str());
    let (_server, asked) = server.await.unwrap();
    assert_eq!(asked["deviceName"], "gw 1");
    assert_eq!(asked["provisionDeviceKey"], "key");
    assert_eq!(asked["provisionDeviceSecret"], "s3cret");
    let proposed = asked["token"].as_str().unwrap().to_owned();

    // The name is taken: by ourselves, since our token opens the device (this broker takes any).
    let server =
        answer_provisioning(broker.plain, r#"{"status":"FAILURE","errorMsg":"exists"}"#).await;
    let enrolment = provider.ask(&attempt).await.unwrap();
    assert_eq!(enrolment.key.unwrap().expose(), proposed);
    server.await.unwrap();

    let server = answer_provisioning(broker.plain, r#"{"status":"NOT_FOUND"}"#).await;
    let error = provider.ask(&attempt).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Denied, "{error}");
    server.await.unwrap();

    let nobody = Contact {
        url: format!(
            "mqtt://127.0.0.1:{}",
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        ),
        ..contact.clone()
    };
    let error = ThingsBoard::new(nobody)
        .unwrap()
        .ask(&attempt)
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Transient, "{error}");
    let pinned = Contact {
        trust: Trust {
            ca_sha256: Some([0; 32]),
            ..Trust::default()
        },
        ..contact
    };
    assert!(ThingsBoard::new(pinned).is_err());
}

#[test]
fn a_huge_body_is_not_read_to_its_end() {
    let server = Server::start(|_| (200, vec![b' '; REPLY_BYTES_MAX + 1]));
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
        let settings = Contact {
            url: url.into(),
            ..server.settings("")
        };
        let error = fetch(&settings).unwrap_err();
        assert!(
            matches!(error, BootstrapError::Settings { key: "url", .. }),
            "{url}: {error}"
        );
    }
    let settings = Contact {
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
    let settings = |pki: &Pki| Contact {
        url: format!(
            "https://localhost:{}/things/bootstrap",
            server.address.port()
        ),
        trust: Trust {
            ca_file: Some(pki.ca_file()),
            ..Trust::default()
        },
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

/// AES-CFB is symmetric in the number of bytes, and wrong keys give garbage.
#[test]
fn secure_tries_each_generation_and_names_what_is_wrong() {
    let configured = "12345678910111213141516171819202";
    let provider = |server: &Server, key: &str| {
        let key = Some(Secret::new(key));
        Mainflux::new(server.settings("/things/bootstrap"), None, key)
    };
    let server = Server::start(|_| (403, Vec::new()));
    let error = ask(&provider(&server, configured).unwrap()).unwrap_err();
    assert!(
        matches!(error, BootstrapError::Denied { status: 403, .. }),
        "{error}"
    );
    let requests = server.requests();
    // 0.15, 0.13, 0.12 and 0.30: two spellings of `Thing`, one without, one of `Client`.
    assert_eq!(requests.len(), 4);
    for (path, header) in &requests {
        assert_eq!(path, "/things/bootstrap/secure/gw%201");
        let sealed = header.rsplit(' ').next().unwrap();
        assert_eq!(sealed.len(), 2 * (16 + "s3cret".len()), "{header}");
        assert!(sealed.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    // Sixteen characters are a key of Magistrala's only: the others are not asked.
    let server = Server::start(|_| (200, vec![7; 100]));
    let error = ask(&provider(&server, "0123456789-bcdef").unwrap()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("secure_key_file is not the key of that service"),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::Denied);
    let error = provider(&server, "short").unwrap_err();
    assert!(
        matches!(
            error,
            BootstrapError::Settings {
                key: "secure_key_file",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_pinned_ca_is_all_that_is_trusted() {
    let pki = Pki::new();
    let server = Server::start_with(Some(pki.server_config_with_ca()), |_| {
        (200, br#"{"thing_id":"t","thing_key":"k"}"#.to_vec())
    });
    let settings = |sha256| Contact {
        url: format!(
            "https://localhost:{}/things/bootstrap",
            server.address.port()
        ),
        trust: Trust {
            ca_sha256: Some(sha256),
            ..Trust::default()
        },
        ..server.settings("")
    };
    assert_eq!(fetch(&settings(pki.ca_sha256())).unwrap().id, "t");
    let error = fetch(&settings([0; 32])).unwrap_err();
    let BootstrapError::Untrusted { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(
        source
            .to_string()
            .contains("no certificate with the SHA-256"),
        "{source}"
    );
    // The right CA vouches for another name.
    let elsewhere = Contact {
        url: settings([0; 32]).url.replace("localhost", "127.0.0.1"),
        ..settings(pki.ca_sha256())
    };
    assert!(matches!(
        fetch(&elsewhere),
        Err(BootstrapError::Untrusted { .. })
    ));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_that_drips_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/things/bootstrap", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
                while stream.write_all(b" ").is_ok() {
                    thread::sleep(std::time::Duration::from_millis(20));
                }
            });
        }
    });
    let contact = Contact {
        url,
        external_id: "gw".into(),
        external_key: Some(Secret::new("s3cret")),
        trust: Trust::default(),
    };
    let provider = Mainflux::new(contact, Some(Generation::Mainflux012), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // With a clock that jumps while nothing moves, 30 seconds are over soon.
    let error = runtime.block_on(async {
        let attempt = Attempt::new("gw").unwrap();
        provider.ask(&attempt).await.unwrap_err()
    });
    assert_eq!(error.outcome(), Outcome::Transient, "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("did not come within"), "{source}");
}
