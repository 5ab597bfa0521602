use super::*;

const VERSIONS: [Protocol; 2] = [Protocol::V311, Protocol::V5];

fn bytes(protocol: Protocol, packet: Packet) -> BytesMut {
    let mut out = BytesMut::new();
    write(protocol, &mut out, packet).unwrap();
    out
}

fn read_one(protocol: Protocol, bytes: &[u8]) -> Result<Option<Packet>, PacketError> {
    read(protocol, &mut BytesMut::from(bytes), 1 << 20)
}

fn message() -> Message {
    Message::retained("plant/1", "payload")
}

fn packets() -> Vec<Packet> {
    vec![
        Packet::Connect(Box::new(Connect {
            client_id: "gw-1".into(),
            username: Some("me".into()),
            password: Some("secret".into()),
            keep_alive_s: 30,
            will: Some(message()),
        })),
        Packet::Connect(Box::default()),
        Packet::Publish(Publish::new(message(), 7)),
        Packet::Publish(Publish::new(Message::new("a", ""), None)),
        Packet::PubAck {
            id: 7,
            reason: Reason::SUCCESS,
        },
        Packet::Subscribe {
            id: 8,
            filters: vec!["a/+".into(), "#".into()],
        },
        Packet::SubAck {
            id: 8,
            reasons: vec![Reason(0x01), Reason(0x80)],
        },
        Packet::Unsubscribe {
            id: 9,
            filters: vec!["a/+".into()],
        },
        Packet::PingReq,
        Packet::PingResp,
        Packet::Disconnect(Goodbye::default()),
    ]
}

#[test]
fn both_versions_carry_the_same_packets() {
    for protocol in VERSIONS {
        for packet in packets() {
            let written = bytes(protocol, packet.clone());
            let read = read_one(protocol, &written).unwrap().unwrap();
            assert_eq!(read, packet, "{protocol}");
            for end in 0..written.len() {
                let part = read_one(protocol, &written[..end]).unwrap();
                assert_eq!(part, None, "{protocol}: {end} bytes of {packet:?}");
            }
        }
    }
}

#[test]
fn a_message_takes_no_more_than_was_reckoned() {
    let mut rich = Message::new("plant/1", vec![b'x'; 300]);
    *rich.properties_mut() = Properties {
        expiry_s: Some(1),
        content_type: Some("text/plain".into()),
        response_topic: Some("answers".into()),
        correlation: Some(vec![1; 200].into()),
        user: vec![("a".into(), "b".into()); 50],
    };
    for message in [message(), rich, Message::new("t", vec![0; 3 << 20])] {
        let reckoned = message.wire_bytes();
        let mut publish = Publish::new(message, 1);
        publish.alias = Some(1);
        let written = bytes(Protocol::V5, Packet::Publish(publish.clone())).len();
        assert!(written <= reckoned, "{written} of {reckoned}");
        assert!(bytes(Protocol::V311, Packet::Publish(publish)).len() <= reckoned);
    }
}

#[test]
fn what_a_broker_grants_is_read() {
    let terms = Terms {
        protocol: Protocol::V5,
        receive_maximum: 20,
        max_packet: Some(65_536),
        topic_alias_maximum: 10,
        takes_qos1: false,
        retains: false,
        keep_alive_s: Some(17),
        client_id: Some("auto-1".into()),
    };
    let ack = Packet::ConnAck(Box::new(ConnAck {
        reason: Reason(0x9d),
        text: Some("gone".into()),
        reference: Some("other.example".into()),
        terms,
    }));
    let read = read_one(Protocol::V5, &bytes(Protocol::V5, ack.clone()));
    assert_eq!(read.unwrap().unwrap(), ack);
    // mosquitto 2.0.11: receive maximum 20, topic alias maximum 10.
    let mosquitto = [0x20, 0x09, 0, 0, 6, 0x21, 0, 20, 0x22, 0, 10];
    let Packet::ConnAck(ack) = read_one(Protocol::V5, &mosquitto).unwrap().unwrap() else {
        panic!("a CONNACK is expected");
    };
    let expected = Terms {
        protocol: Protocol::V5,
        receive_maximum: 20,
        topic_alias_maximum: 10,
        ..Terms::default()
    };
    assert_eq!((ack.reason, ack.terms), (Reason::SUCCESS, expected));
}

#[test]
fn a_broker_of_the_older_version_is_understood() {
    // To a CONNECT of MQTT 5 it answers with the form that it knows.
    for (code, reason) in [
        (0, 0),
        (1, 0x84),
        (2, 0x85),
        (3, 0x88),
        (4, 0x86),
        (5, 0x87),
    ] {
        for protocol in VERSIONS {
            let ack = read_one(protocol, &[0x20, 0x02, 0, code]).unwrap().unwrap();
            let Packet::ConnAck(ack) = ack else {
                panic!("a CONNACK is expected");
            };
            assert_eq!(ack.reason, Reason(reason));
            assert_eq!(ack.terms, Terms::default());
            let written = bytes(Protocol::V311, Packet::ConnAck(ack));
            assert_eq!(written[..], [0x20, 0x02, 0, code]);
        }
    }
}

#[test]
fn reasons_that_nobody_knows_are_no_errors() {
    let ack = |bytes: &[u8]| match read_one(Protocol::V5, bytes).unwrap().unwrap() {
        Packet::PubAck { id, reason } => (id, reason.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(ack(&[0x40, 2, 0, 9]), (9, 0));
    assert_eq!(ack(&[0x40, 3, 0, 9, 0x97]), (9, 0x97));
    assert_eq!(ack(&[0x40, 4, 0, 9, 0xee, 0]), (9, 0xee));
    let parting = |bytes: &[u8]| match read_one(Protocol::V5, bytes).unwrap().unwrap() {
        Packet::Disconnect(parting) => parting.reason.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(parting(&[0xe0, 0]), 0);
    assert_eq!(parting(&[0xe0, 1, 0x8e]), 0x8e);
    assert_eq!(parting(&[0xe0, 2, 0xee, 0]), 0xee);
}

#[test]
fn broken_packets_are_refused_and_never_waited_for() {
    let broken: [(&[u8], &str); 9] = [
        (&[0x40, 1, 0], "before the packet id"),
        (&[0x90, 4, 0, 0, 0, 1], "packet id is 0"),
        (&[0x20, 1, 0], "before the reason"),
        (
            &[0x20, 4, 0, 0, 9, 0x21],
            "before the end of the properties",
        ),
        (&[0x20, 5, 0, 0, 2, 0x21, 0], "alformed"),
        (&[0x30, 3, 0, 5, b'a'], "before the topic"),
        (&[0x34, 6, 0, 1, b'a', 0, 1, 0], "QoS 2"),
        (&[0x30, 5, 0, 1, 0xff, 0, 0], "no UTF-8"),
        (&[0xff, 0xff, 0xff, 0xff, 0xff], "length has no end"),
    ];
    for (bytes, words) in broken {
        let error = read_one(Protocol::V5, bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{bytes:x?}: {error}");
    }
    let error = read(
        Protocol::V5,
        &mut BytesMut::from(&[0x30, 0x80, 0x01][..]),
        100,
    );
    assert!(matches!(
        error,
        Err(PacketError::TooLarge {
            bytes: 128,
            limit: 100
        })
    ));
}

#[test]
fn no_bytes_make_it_fail_hard() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..50_000 {
        let length = rng.usize(2..40);
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
        // A length that fits, so that the body is read.
        bytes[1] = u8::try_from(length - 2).unwrap();
        for protocol in VERSIONS {
            let outcome = read_one(protocol, &bytes);
            assert!(!matches!(outcome, Ok(None)), "{bytes:x?} is whole");
        }
    }
}

#[test]
fn every_reason_has_its_meaning() {
    for code in 0x80..=0xa2u8 {
        let known = !Reason(code).text().contains("no known reason");
        // The standard leaves these out.
        let gap = matches!(code, 0x8c | 0x92);
        assert!(known || gap || code == 0x94, "{code:#x}");
    }
    for (code, fate) in [
        (0x00, AckFate::Taken),
        (0x10, AckFate::Unheard),
        (0x97, AckFate::Later),
        (0x80, AckFate::Unexplained),
        (0x83, AckFate::Unexplained),
        (0x87, AckFate::Denied),
        (0x90, AckFate::Never),
        (0x99, AckFate::Never),
        (0xee, AckFate::Unexplained),
    ] {
        assert_eq!(Reason(code).fate(), fate, "{code:#x}");
    }
    for (code, cause) in [
        (0x8e, PartingCause::TakenOver),
        (0x95, PartingCause::TooLarge),
        (0x96, PartingCause::Quota),
        (0x97, PartingCause::Quota),
        (0x87, PartingCause::Message),
        (0x8b, PartingCause::Other),
    ] {
        assert_eq!(Reason(code).parting(), cause, "{code:#x}");
    }
    assert!(Reason(0x87).is_lasting());
    assert!(!Reason(0x88).is_lasting());
    assert!(!Reason(0x97).is_lasting());
}
