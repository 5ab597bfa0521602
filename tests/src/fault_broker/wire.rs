//! As much of MQTT 3.1.1 and 5 as a broker of tests needs, by hand.

/// One whole packet: the first byte, and what follows its length.
pub struct Frame {
    pub head: u8,
    pub body: Vec<u8>,
    /// Bytes on the wire.
    pub bytes: usize,
}

/// Takes the first whole packet off `input`; `None` until there is one. A length of more than four bytes ends the
/// connection: `Err`.
pub fn take_frame(input: &mut Vec<u8>) -> Result<Option<Frame>, ()> {
    let Some((length, used)) = input.get(1..).map(varint).transpose()?.flatten() else {
        return Ok(None);
    };
    let bytes = 1 + used + length;
    if input.len() < bytes {
        return Ok(None);
    }
    let frame = Frame {
        head: input[0],
        body: input[1 + used..bytes].to_vec(),
        bytes,
    };
    input.drain(..bytes);
    Ok(Some(frame))
}

/// A number of variable length, and how many bytes it took.
fn varint(input: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    let mut value = 0;
    for (place, byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((value, place + 1)));
        }
    }
    if input.len() >= 4 { Err(()) } else { Ok(None) }
}

/// What a CONNECT asks for: the protocol level.
pub fn connect_level(body: &[u8]) -> Option<u8> {
    (body.get(..6)? == b"\0\x04MQTT").then(|| body.get(6).copied())?
}

/// A PUBLISH, taken apart.
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    /// 0 at QoS 0.
    pub id: u16,
    pub qos: u8,
}

/// Takes a PUBLISH apart. Topic aliases are never offered, so that the topic is always there.
pub fn publish(frame: &Frame, level: u8) -> Option<Publish> {
    let qos = frame.head >> 1 & 3;
    let topic_bytes = usize::from(u16_at(&frame.body, 0)?);
    let topic = std::str::from_utf8(frame.body.get(2..2 + topic_bytes)?).ok()?;
    let mut at = 2 + topic_bytes;
    let mut id = 0;
    if qos > 0 {
        id = u16_at(&frame.body, at)?;
        at += 2;
    }
    if level == 5 {
        let (length, used) = varint(frame.body.get(at..)?).ok()??;
        at += used + length;
    }
    let sane = !topic.is_empty() && !topic.contains(['+', '#', '\0']) && (qos == 0 || id != 0);
    sane.then(|| Publish {
        topic: topic.to_owned(),
        payload: frame.body.get(at..).unwrap_or_default().to_vec(),
        id,
        qos,
    })
}

/// The packet id and the number of filters of a SUBSCRIBE or UNSUBSCRIBE.
pub fn filters(frame: &Frame, level: u8, with_options: bool) -> Option<(u16, usize)> {
    let id = u16_at(&frame.body, 0)?;
    let mut at = 2;
    if level == 5 {
        let (length, used) = varint(frame.body.get(at..)?).ok()??;
        at += used + length;
    }
    let mut count = 0;
    while at < frame.body.len() {
        at += 2 + usize::from(u16_at(&frame.body, at)?) + usize::from(with_options);
        count += 1;
    }
    Some((id, count))
}

fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]))
}

/// A CONNACK. With MQTT 5 it says how many unacknowledged messages and how large a packet the broker takes.
pub fn connack(
    level: u8,
    session: bool,
    code: u8,
    receive_max: Option<u16>,
    packet_max: Option<u32>,
) -> Vec<u8> {
    if level != 5 {
        return vec![0x20, 2, u8::from(session), code];
    }
    let mut properties = Vec::new();
    if let Some(most) = receive_max {
        properties.push(0x21);
        properties.extend(most.to_be_bytes());
    }
    if let Some(most) = packet_max {
        properties.push(0x27);
        properties.extend(most.to_be_bytes());
    }
    let length = properties.len() as u8;
    let mut packet = vec![0x20, 3 + length, u8::from(session), code, length];
    packet.extend(properties);
    packet
}

/// A PUBACK; a reason other than 0 needs MQTT 5.
pub fn puback(id: u16, reason: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    match reason {
        0 => vec![0x40, 2, high, low],
        reason => vec![0x40, 3, high, low, reason],
    }
}

/// A SUBACK that grants QoS 1 for each filter.
pub fn suback(level: u8, id: u16, filters: usize) -> Vec<u8> {
    answer(0x90, level, id, &vec![1; filters])
}

/// An UNSUBACK.
pub fn unsuback(level: u8, id: u16, filters: usize) -> Vec<u8> {
    match level {
        5 => answer(0xB0, level, id, &vec![0; filters]),
        _ => answer(0xB0, level, id, &[]),
    }
}

fn answer(head: u8, level: u8, id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    body.extend(codes);
    let mut packet = vec![head, body.len() as u8];
    packet.extend(body);
    packet
}
