//! A serial line on a paused clock: the other end answers as a test tells it to, byte for byte.

use tokio::time::{Instant, sleep};

use super::*;
use crate::modbus::frame::rtu::{decode, encode};

const BAUD: u32 = 19_200;
const TIMEOUT: Duration = Duration::from_millis(200);

fn line() -> (Asking, Unit) {
    let (near, far) = tokio::io::duplex(4096);
    let framing = Framing::Rtu(Pace::of(BAUD, 11));
    let link = Link::new(near, framing, FaultCounts::default());
    let peer = peer(TIMEOUT);
    (Asking { link, peer }, Unit(far))
}

/// The other end of the line.
struct Unit(DuplexStream);

impl Unit {
    /// The next request.
    async fn asked(&mut self) -> Vec<u8> {
        let mut frame = [0; 8];
        self.0.read_exact(&mut frame).await.unwrap();
        let (_, pdu) = decode(&frame).unwrap();
        pdu.to_vec()
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }
}

fn good(value: u8) -> Vec<u8> {
    encode(UNIT, &[3, 4, value, value, value, value])
}

async fn ask(asking: &mut Asking, unit: impl Future<Output = ()>) -> Result<Vec<u8>, SessionError> {
    exchange_with(asking, unit).await
}

#[tokio::test(start_paused = true)]
async fn late_reply_is_not_the_next_one() {
    let (mut asking, mut unit) = line();
    let late = async {
        unit.asked().await;
        sleep(TIMEOUT * 3 / 2).await;
        unit.send(&good(0xBA)).await;
        unit.asked().await;
        unit.send(&good(1)).await;
    };
    let twice = async {
        let first = asking.link.exchange(&asking.peer, &TWO, &clock()).await;
        assert!(matches!(first, Err(SessionError::Timeout { .. })));
        let second = asking.link.exchange(&asking.peer, &TWO, &clock()).await;
        match second.unwrap().answer {
            Answer::Data(data) => assert_eq!(data, [1; 4]),
            other => panic!("{other:?}"),
        }
    };
    tokio::join!(twice, late);
    assert_eq!(asking.seen(Fault::Timeout), 1);
    assert_eq!(asking.seen(Fault::Late), 1);
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_counted_under_its_name_and_costs_one_exchange() {
    let spoilt = {
        let mut frame = good(0xBA);
        frame[4] ^= 4;
        frame
    };
    let cases: [(Fault, Vec<u8>); 7] = [
        (Fault::Timeout, Vec::new()),
        (Fault::Checksum, spoilt),
        (Fault::Truncated, good(0xBA)[..6].to_vec()),
        (Fault::WrongUnit, encode(UNIT + 1, &[3, 4, 1, 1, 1, 1])),
        (Fault::WrongFunction, encode(UNIT, &[4, 4, 1, 1, 1, 1])),
        (Fault::WrongLength, encode(UNIT, &[3, 2, 0xBA, 0xBA])),
        (Fault::Noise, vec![0x55; 60]),
    ];
    for (fault, bytes) in cases {
        let (mut asking, mut unit) = line();
        let failed = ask(&mut asking, async {
            unit.asked().await;
            unit.send(&bytes).await;
        });
        assert!(failed.await.is_err(), "{fault:?}");
        assert_eq!(
            asking.seen(fault),
            1,
            "{:?}",
            asking.link.faults().summary()
        );
        let next = ask(&mut asking, async {
            unit.asked().await;
            unit.send(&good(2)).await;
        });
        assert_eq!(next.await.unwrap(), [2; 4], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn noise_and_foreign_frames_before_the_reply_are_counted_and_skipped() {
    let (mut asking, mut unit) = line();
    let foreign = encode(3, &[3, 4, 9, 9, 9, 9]);
    for (before, fault) in [
        (vec![0x00, 0xFF], Fault::Noise),
        (foreign, Fault::WrongUnit),
    ] {
        let noisy = ask(&mut asking, async {
            unit.asked().await;
            unit.send(&[&before[..], &good(3)].concat()).await;
        });
        assert_eq!(noisy.await.unwrap(), [3; 4]);
        assert_eq!(asking.seen(fault), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn own_echo_is_no_reply() {
    let (mut asking, mut unit) = line();
    for round in 1..=3 {
        let echoed = ask(&mut asking, async {
            let request = unit.asked().await;
            unit.send(&encode(UNIT, &request)).await;
            sleep(Duration::from_millis(20)).await;
            unit.send(&good(4)).await;
        });
        assert_eq!(echoed.await.unwrap(), [4; 4]);
        assert_eq!(asking.seen(Fault::OwnEcho), round);
    }
    // On a line that echoes, the echo of a write does not confirm it.
    let write = Request::WriteRegister {
        address: 1,
        value: 2,
    };
    let clock = clock();
    let refused = async {
        let request = unit.asked().await;
        unit.send(&encode(UNIT, &request)).await;
        unit.send(&encode(UNIT, &[0x86, 2])).await;
    };
    let (reply, ()) = tokio::join!(asking.link.exchange(&asking.peer, &write, &clock), refused);
    assert!(matches!(reply.unwrap().answer, Answer::Exception(_)));
}

#[tokio::test(start_paused = true)]
async fn doubled_reply_is_dropped_and_frames_keep_their_silence() {
    let (mut asking, mut unit) = line();
    let doubled = ask(&mut asking, async {
        unit.asked().await;
        unit.send(&[good(5), good(5)].concat()).await;
    });
    assert_eq!(doubled.await.unwrap(), [5; 4]);
    let begun = Instant::now();
    let next = ask(&mut asking, async {
        unit.asked().await;
        assert!(begun.elapsed() >= Pace::of(BAUD, 11).silence);
        unit.send(&good(6)).await;
    });
    assert_eq!(next.await.unwrap(), [6; 4]);
    assert_eq!(asking.seen(Fault::Late), 1);
}

#[tokio::test(start_paused = true)]
async fn reply_may_pause_between_its_bytes() {
    let (mut asking, mut unit) = line();
    let dripped = ask(&mut asking, async {
        unit.asked().await;
        for byte in good(7) {
            unit.send(&[byte]).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(dripped.await.unwrap(), [7; 4]);
}

#[tokio::test(start_paused = true)]
async fn broadcast_waits_for_nobody() {
    let (mut asking, mut unit) = line();
    asking.peer.unit = 0;
    let write = Request::WriteRegister {
        address: 1,
        value: 2,
    };
    let clock = clock();
    let (reply, pdu) = tokio::join!(
        asking.link.exchange(&asking.peer, &write, &clock),
        unit.asked()
    );
    assert_eq!(reply.unwrap().answer, Answer::Written);
    assert_eq!(pdu, [6, 0, 1, 0, 2]);
    assert_eq!(asking.seen(Fault::Timeout), 0);
}

#[tokio::test(start_paused = true)]
async fn identification_has_the_length_that_it_says() {
    let (mut asking, mut unit) = line();
    let identify = Request::Identify {
        access: 1,
        object: 0,
    };
    let mut pdu = vec![0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 4];
    pdu.extend_from_slice(b"Mill");
    let clock = clock();
    let answering = async {
        let mut request = [0; 7];
        unit.0.read_exact(&mut request).await.unwrap();
        unit.send(&encode(UNIT, &pdu)).await;
    };
    let (reply, ()) = tokio::join!(
        asking.link.exchange(&asking.peer, &identify, &clock),
        answering
    );
    assert_eq!(reply.unwrap().answer, Answer::Data(&pdu[2..]));
}
