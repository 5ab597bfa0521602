//! A serial line on a paused clock: the other end answers as a test tells it to, byte for byte.

use tokio::time::{Instant, sleep};

use super::*;
use crate::modbus::frame::rtu::{decode, encode};

const BAUD: u32 = 19_200;
const TIMEOUT: Duration = Duration::from_millis(200);

fn pace() -> Pace {
    Pace::of(BAUD, 11)
}

fn line() -> (Asking, Unit) {
    let (near, far) = tokio::io::duplex(4096);
    let framing = Framing::Rtu(pace());
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

    /// Before the same is asked again: one register less.
    async fn answer_question(&mut self) {
        assert_eq!(self.asked().await, [3, 0, 4, 0, 1]);
        self.send(&encode(UNIT, &[3, 2, 0xEE, 0xEE])).await;
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
        unit.answer_question().await;
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

/// A unit that answers in order, each request so much after it came.
async fn lagging(mut unit: Unit, lag: Duration) {
    let began = Instant::now();
    let mut value = 0;
    loop {
        let pdu = unit.asked().await;
        if began.elapsed() < lag {
            sleep(lag).await;
        }
        let data = match pdu[0] {
            3 => vec![value; usize::from(pdu[4]) * 2],
            _ => vec![value; 1],
        };
        value += 1;
        let reply = [&[pdu[0], data.len() as u8], &data[..]].concat();
        unit.send(&encode(UNIT, &reply)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_reply_of_the_same_shape_is_never_taken_however_late() {
    for late in 1..=5 {
        for more in [15, 50, 99] {
            let (mut asking, unit) = line();
            let lag = TIMEOUT * late + TIMEOUT * more / 100;
            let unit = tokio::spawn(lagging(unit, lag));
            let clock = clock();
            let answered = loop {
                let asked = asking.link.exchange(&asking.peer, &TWO, &clock).await;
                if let Ok(reply) = asked {
                    break format!("{:?}", reply.answer);
                }
            };
            // The first reply has the same shape and the value 0.
            assert_ne!(answered, "Data([0, 0, 0, 0])", "late by {lag:?}");
            assert!(answered.starts_with("Data"), "{answered}");
            unit.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn late_reply_under_another_function_is_not_taken() {
    let (mut asking, mut unit) = line();
    let clock = clock();
    let write = Request::WriteRegister {
        address: 1,
        value: 2,
    };
    let input = Request::Read(ReadRequest {
        table: Table::Input,
        start: 4,
        count: 2,
    });
    let out_of_step = async {
        // Whether the line echoes is asked before the write.
        unit.asked().await;
        unit.send(&encode(UNIT, &[3, 2, 0, 0])).await;
        let echo = unit.asked().await;
        sleep(TIMEOUT * 3 / 2).await;
        unit.send(&encode(UNIT, &echo)).await;
        // The next waits behind the write, and is answered as if holding registers had been asked for.
        unit.asked().await;
        unit.asked().await;
        unit.send(&good(0xBA)).await;
    };
    let asked = async {
        for request in [&write, &input, &TWO] {
            let reply = asking.link.exchange(&asking.peer, request, &clock).await;
            assert!(reply.is_err(), "{request:?}: {reply:?}");
        }
    };
    tokio::join!(asked, out_of_step);
}

#[tokio::test(start_paused = true)]
async fn unit_that_answers_no_question_is_asked_again_after_a_long_quiet() {
    let (mut asking, mut unit) = line();
    let one = Request::Read(ReadRequest {
        table: Table::Holding,
        start: 4,
        count: 1,
    });
    let silent = async {
        let mut functions = Vec::new();
        loop {
            let pdu = unit.asked().await;
            functions.push(pdu[0]);
            if pdu[0] == 3 && functions.len() > 1 {
                unit.send(&encode(UNIT, &[3, 2, 7, 7])).await;
                return functions;
            }
        }
    };
    let clock = clock();
    let asked = async {
        let begun = Instant::now();
        while asking
            .link
            .exchange(&asking.peer, &one, &clock)
            .await
            .is_err()
        {}
        begun.elapsed()
    };
    let (functions, took) = tokio::join!(silent, asked);
    assert_eq!(functions, [3, 4, 1, 2, 3]);
    assert!(took > TIMEOUT * 10, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn echo_is_learned_before_a_write_is_trusted() {
    let (mut asking, mut unit) = line();
    let write = Request::WriteRegister {
        address: 1,
        value: 2,
    };
    let clock = clock();
    let refusing = async {
        let question = unit.asked().await;
        assert_eq!(question[0], 3, "a read comes first");
        let reply = encode(UNIT, &[3, 2, 0, 0]);
        unit.send(&[encode(UNIT, &question), reply].concat()).await;
        let request = unit.asked().await;
        unit.send(&encode(UNIT, &request)).await;
        unit.send(&encode(UNIT, &[0x86, 2])).await;
    };
    let (reply, ()) = tokio::join!(asking.link.exchange(&asking.peer, &write, &clock), refusing);
    assert!(matches!(reply.unwrap().answer, Answer::Exception(_)));
    assert_eq!(asking.seen(Fault::OwnEcho), 2);
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
        assert_eq!(asking.seen(fault), 1, "{:?}", asking.link.faults());
        let next = ask(&mut asking, async {
            unit.answer_question().await;
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

/// As USB adapters hand it on: far more than t1.5 between any two pieces.
#[tokio::test(start_paused = true)]
async fn frame_in_pieces_is_one_frame() {
    let frame = good(7);
    for cut in 1..frame.len() {
        let (mut asking, mut unit) = line();
        for pause in [1, 16, 100] {
            let cut_up = ask(&mut asking, async {
                unit.asked().await;
                let (head, tail) = frame.split_at(cut);
                unit.send(head).await;
                sleep(Duration::from_millis(pause)).await;
                unit.send(tail).await;
            });
            assert_eq!(cut_up.await.unwrap(), [7; 4], "{cut} {pause}");
        }
        assert_eq!(asking.seen(Fault::Truncated) + asking.seen(Fault::Noise), 0);
    }
}

/// What is missing of a frame that broke off comes at any time after it, and is never the beginning of the next.
#[tokio::test(start_paused = true)]
async fn rest_of_a_broken_frame_is_no_reply() {
    let old = good(7);
    for cut in 2..old.len() {
        for late in [130, 160, 190, 230, 300] {
            let (mut asking, mut unit) = line();
            let broken = ask(&mut asking, async {
                unit.asked().await;
                unit.send(&old[..cut]).await;
            });
            assert!(broken.await.is_err(), "{cut}");
            let gap = Duration::from_millis(late) - pace().pause_in_frame;
            let next = ask(&mut asking, async {
                sleep(gap).await;
                unit.send(&old[cut..]).await;
                unit.answer_question().await;
                unit.asked().await;
                unit.send(&good(9)).await;
            });
            assert_eq!(next.await.unwrap(), [9; 4], "{cut} {late}");
        }
    }
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
