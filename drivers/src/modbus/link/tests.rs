use std::future::Future;

use millrace_tags::{TestClock, Timestamp};
use tokio::io::DuplexStream;

use super::*;
use crate::modbus::frame::mbap::{HEADER_BYTES, Header};
use crate::modbus::request::ReadRequest;
use crate::modbus::{Answer, Table};

mod rtu;

/// Bytes of a read request's PDU.
const READ_PDU_BYTES: usize = 5;

const UNIT: u8 = 9;

const TWO: Request = Request::Read(ReadRequest {
    table: Table::Holding,
    start: 4,
    count: 2,
});

fn peer(timeout: Duration) -> Peer {
    Peer {
        device: "pump".to_owned(),
        unit: UNIT,
        timeout,
    }
}

/// A link and whom it asks.
struct Asking {
    link: Link<DuplexStream>,
    peer: Peer,
}

impl Asking {
    fn seen(&self, fault: Fault) -> u64 {
        self.link.faults().get(fault)
    }
}

fn pair(timeout: Duration) -> (Asking, Device) {
    let (near, far) = tokio::io::duplex(4096);
    let link = Link::new(near, Framing::Tcp, FaultCounts::default());
    let peer = peer(timeout);
    (Asking { link, peer }, Device(far))
}

fn encoded(request: &Request) -> Vec<u8> {
    let mut pdu = Vec::new();
    request.encode(&mut pdu);
    pdu
}

/// The other end, which sends what a test tells it to.
struct Device(DuplexStream);

impl Device {
    /// The transaction id of the next request.
    async fn asked(&mut self) -> u16 {
        let mut frame = [0; HEADER_BYTES + READ_PDU_BYTES];
        self.0.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[HEADER_BYTES..], encoded(&TWO));
        Header::parse(&frame).unwrap().unwrap().transaction
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }
}

fn frame(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let header = Header {
        transaction,
        unit,
        pdu_bytes: pdu.len(),
    };
    [&header.encode()[..], pdu].concat()
}

fn reply(transaction: u16, registers: [u8; 4]) -> Vec<u8> {
    let [a, b, c, d] = registers;
    frame(transaction, UNIT, &[3, 4, a, b, c, d])
}

fn clock() -> TestClock {
    TestClock::new(1, Some(Timestamp(0)))
}

/// What an exchange brings while the device does its part.
async fn exchange_with(
    asking: &mut Asking,
    device: impl Future<Output = ()>,
) -> Result<Vec<u8>, SessionError> {
    let clock = clock();
    let (reply, ()) = tokio::join!(asking.link.exchange(&asking.peer, &TWO, &clock), device);
    reply.map(|reply| match reply.answer {
        Answer::Data(data) => data.to_vec(),
        Answer::Exception(code) => vec![code.into()],
        other => panic!("{other:?}"),
    })
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(30);

#[tokio::test]
async fn late_reply_is_not_the_next_one() {
    let (mut link, mut device) = pair(SHORT);
    let mut first = 0;
    let silent = exchange_with(&mut link, async { first = device.asked().await }).await;
    assert!(matches!(silent, Err(SessionError::Timeout { .. })));
    link.peer.timeout = LONG;
    // Arrives while the next request is on its way, so that draining alone would not have helped.
    let second = exchange_with(&mut link, async {
        let transaction = device.asked().await;
        device.send(&reply(first, [0xBA, 0xD0, 0xBA, 0xD0])).await;
        device.send(&reply(transaction, [1, 2, 3, 4])).await;
    });
    assert_eq!(second.await.unwrap(), [1, 2, 3, 4]);
    assert_eq!(link.seen(Fault::Stale), 1);
}

#[tokio::test]
async fn doubled_reply_is_drained_even_in_pieces() {
    let (mut link, mut device) = pair(LONG);
    let mut first = Vec::new();
    let doubled = exchange_with(&mut link, async {
        first = reply(device.asked().await, [1, 1, 1, 1]);
        device.send(&[&first[..], &first[..5]].concat()).await;
    });
    assert_eq!(doubled.await.unwrap(), [1, 1, 1, 1]);
    let next = exchange_with(&mut link, async {
        let transaction = device.asked().await;
        device.send(&first[5..]).await;
        device.send(&reply(transaction, [2, 2, 2, 2])).await;
    });
    assert_eq!(next.await.unwrap(), [2, 2, 2, 2]);
    assert_eq!(link.seen(Fault::Stale), 1);
}

#[tokio::test]
async fn reply_in_single_bytes_is_put_together() {
    let (mut link, mut device) = pair(LONG);
    let dripped = exchange_with(&mut link, async {
        for byte in reply(device.asked().await, [1, 2, 3, 4]) {
            device.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(dripped.await.unwrap(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn device_that_makes_up_transaction_ids_is_told_from_a_silent_one() {
    let (mut link, mut device) = pair(SHORT);
    let stale = exchange_with(&mut link, async {
        let transaction = device.asked().await;
        device
            .send(&reply(transaction.wrapping_add(1), [1, 2, 3, 4]))
            .await;
    });
    let error = stale.await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pump did not answer holding:4 x 2 (replies with another transaction id: 1) within 30 ms"
    );
}

#[tokio::test]
async fn foreign_reply_breaks_the_session() {
    type Spoil = fn(u16) -> Vec<u8>;
    let cases: [(&str, Spoil); 7] = [
        ("a reply of unit 10", |t| {
            frame(t, UNIT + 1, &[3, 4, 1, 2, 3, 4])
        }),
        ("function 0x04", |t| frame(t, UNIT, &[4, 4, 1, 2, 3, 4])),
        ("a byte count of 2 with 2 data bytes", |t| {
            frame(t, UNIT, &[3, 2, 1, 2])
        }),
        ("a byte count of 4 with 2 data bytes", |t| {
            frame(t, UNIT, &[3, 4, 1, 2])
        }),
        ("a byte count of 6 with 6 data bytes", |t| {
            frame(t, UNIT, &[3, 6, 1, 2, 3, 4, 5, 6])
        }),
        ("protocol id 258", |t| {
            let mut noise = reply(t, [1, 2, 3, 4]);
            noise[2..4].copy_from_slice(&[1, 2]);
            noise
        }),
        ("a length of 255", |t| {
            let mut noise = reply(t, [1, 2, 3, 4]);
            noise[5] = 255;
            noise
        }),
    ];
    for (expected, spoil) in cases {
        let (mut link, mut device) = pair(LONG);
        let spoiled = exchange_with(&mut link, async {
            let transaction = device.asked().await;
            device.send(&spoil(transaction)).await;
        });
        match spoiled.await {
            Err(SessionError::Protocol { found, .. }) => assert_eq!(found, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn exception_is_an_answer() {
    let (mut link, mut device) = pair(LONG);
    let exception = exchange_with(&mut link, async {
        let transaction = device.asked().await;
        device.send(&frame(transaction, UNIT, &[0x83, 2])).await;
    });
    assert_eq!(exception.await.unwrap(), [2]);
}

#[tokio::test]
async fn closed_connection_is_lost() {
    let (mut link, device) = pair(LONG);
    drop(device);
    let closed = exchange_with(&mut link, async {}).await;
    assert!(
        matches!(closed, Err(SessionError::Lost { .. })),
        "{closed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn several_requests_in_flight_find_their_replies_in_any_order() {
    let (mut asking, mut device) = pair(LONG);
    let clock = clock();
    let requests = vec![&TWO; 9];
    let mut taken = Vec::new();
    let mut take = |index: usize, reply: Reply<'_>| match reply.answer {
        Answer::Data(data) => taken.push((index, data[0])),
        other => panic!("{other:?}"),
    };
    let all = asking
        .link
        .exchange_all(&asking.peer, &requests, 4, &clock, &mut take);
    let answering = async {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut waiting, mut asked) = (Vec::new(), 0u8);
        while asked < 9 || !waiting.is_empty() {
            while asked < 9 && waiting.len() < 4 {
                waiting.push((asked, device.asked().await));
                asked += 1;
            }
            let (index, transaction) = waiting.swap_remove(rng.usize(..waiting.len()));
            device.send(&reply(transaction, [index; 4])).await;
        }
    };
    let (done, ()) = tokio::join!(all, answering);
    done.unwrap();
    assert_eq!(taken.len(), 9);
    taken.sort_unstable();
    assert!(
        taken
            .iter()
            .all(|(index, value)| *index == usize::from(*value))
    );
    // A fifth is not asked while four wait.
    assert_eq!(asking.seen(Fault::Stale), 0);
}

/// Replies, late ones, foreign ones and noise in random order: what comes out is the right value or an
/// error.
#[tokio::test]
async fn no_mixture_of_faults_makes_a_wrong_value() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut link, mut device) = pair(SHORT);
        for round in 1..=5u8 {
            let right = [round; 4];
            let mut frames = rng.u8(0..4);
            let exchanged = exchange_with(&mut link, async {
                let transaction = device.asked().await;
                while frames > 0 {
                    frames -= 1;
                    let older = transaction.wrapping_sub(rng.u16(1..4));
                    device.send(&reply(older, [0xBA; 4])).await;
                }
                match rng.u8(0..6) {
                    0 => {}
                    1 => {
                        device
                            .send(&frame(transaction, UNIT, &[3, 2, 0xBA, 0xBA]))
                            .await
                    }
                    2 => device.send(&reply(transaction, [0xBA; 4])[..9]).await,
                    3 => {
                        device
                            .send(&frame(transaction, 1, &[3, 4, 0xBA, 0xBA, 0xBA, 0xBA]))
                            .await
                    }
                    _ => device.send(&reply(transaction, right)).await,
                }
            });
            match exchanged.await {
                Ok(data) => assert_eq!(data, right, "seed {seed}"),
                Err(_) => break,
            }
        }
    }
}
