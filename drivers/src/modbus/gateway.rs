//! A line as seen by a tool that may not open its port: Modbus TCP in, turns of the line out.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_modbus::ExceptionCode;

use super::address::Table;
use super::frame::mbap::{HEADER_BYTES, Header, PDU_BYTES_MAX};
use super::line::Line;
use super::link::{Peer, Transport};
use super::reply::{Answer, EXCEPTION_FLAG};
use super::request::{MEI_IDENTIFY, ReadRequest, Request};
use crate::SessionError;

/// How long a tool holds the line besides the unit's timeout: the frames of a slow line, and its fence.
const TURN_MAX: Duration = Duration::from_secs(5);

/// Answers requests until the tool goes. Each has a turn of its own, between those of the devices; what a
/// tool asks says nothing of their health. `each` sees every request before it is sent.
///
/// # Errors
/// The tool does not speak Modbus TCP, or the connection broke.
pub async fn serve(
    mut stream: impl Transport,
    line: &Line,
    timeout: Duration,
    each: impl Fn(u8, &Request),
) -> io::Result<()> {
    let mut head = [0; HEADER_BYTES];
    loop {
        match stream.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let header = Header::parse(&head)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?
            .filter(|header| (1..=PDU_BYTES_MAX).contains(&header.pdu_bytes))
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut pdu = vec![0; header.pdu_bytes];
        stream.read_exact(&mut pdu).await?;
        let reply = match decode(&pdu) {
            Some(request) => {
                each(header.unit, &request);
                ask(line, header.unit, &request, timeout).await
            }
            None => exception(pdu[0], ExceptionCode::IllegalFunction),
        };
        let length = (reply.len() + 1) as u16;
        let mut frame = head[..4].to_vec();
        frame.extend_from_slice(&length.to_be_bytes());
        frame.push(header.unit);
        frame.extend_from_slice(&reply);
        stream.write_all(&frame).await?;
        stream.flush().await?;
    }
}

/// The PDU of the reply. As gateways have it, exception 11 where the unit is silent and 10 where there is no way to it.
async fn ask(line: &Line, unit: u8, request: &Request, timeout: Duration) -> Vec<u8> {
    let function = request.function();
    let peer = Peer {
        device: format!("unit {unit}"),
        unit,
        timeout,
    };
    let Ok(mut lease) = line.lease(timeout + TURN_MAX).await else {
        return exception(function, ExceptionCode::GatewayPathUnavailable);
    };
    let mut pdu = vec![function];
    match lease
        .exchange(&peer, request)
        .await
        .map(|reply| reply.answer)
    {
        Ok(Answer::Data(data)) => {
            match request {
                Request::Identify { .. } => pdu.push(MEI_IDENTIFY),
                _ => pdu.push(data.len() as u8),
            }
            pdu.extend_from_slice(data);
        }
        Ok(Answer::Exception(code)) => return exception(function, code),
        Ok(Answer::Written) => {
            pdu.clear();
            request.encode(&mut pdu);
            pdu.truncate(request.reply_bytes(&[]).unwrap_or_default());
        }
        Err(SessionError::Connect { .. } | SessionError::Lost { .. }) => {
            return exception(function, ExceptionCode::GatewayPathUnavailable);
        }
        Ok(Answer::Spoilt(_)) | Err(_) => {
            return exception(function, ExceptionCode::GatewayTargetDevice);
        }
    }
    pdu
}

fn exception(function: u8, code: ExceptionCode) -> Vec<u8> {
    vec![function | EXCEPTION_FLAG, code.into()]
}

/// What a request PDU asks; `None` where that is nothing that we send ourselves.
fn decode(pdu: &[u8]) -> Option<Request> {
    let word =
        |at: usize| -> Option<u16> { Some(u16::from_be_bytes(*pdu.get(at..)?.first_chunk()?)) };
    let registers = |count_at: usize| -> Option<Vec<u16>> {
        let count = usize::from(word(count_at)?);
        let bytes = pdu.get(count_at + 3..)?;
        let words = bytes
            .chunks_exact(2)
            .map(|two| u16::from_be_bytes([two[0], two[1]]));
        (bytes.len() == count * 2 && usize::from(pdu[count_at + 2]) == bytes.len())
            .then(|| words.collect())
    };
    let read = |table: Table| {
        Some(Request::Read(ReadRequest {
            table,
            start: word(1)?,
            count: word(3)?,
        }))
    };
    let request = match *pdu.first()? {
        0x01 => read(Table::Coil)?,
        0x02 => read(Table::Discrete)?,
        0x03 => read(Table::Holding)?,
        0x04 => read(Table::Input)?,
        0x05 => Request::WriteCoil {
            address: word(1)?,
            on: word(3)? != 0,
        },
        0x06 => Request::WriteRegister {
            address: word(1)?,
            value: word(3)?,
        },
        0x0F => Request::WriteCoils {
            start: word(1)?,
            bits: {
                let bytes = pdu.get(6..)?;
                let bit = |i: usize| Some(bytes.get(i / 8)? >> (i % 8) & 1 == 1);
                (0..usize::from(word(3)?)).map(bit).collect::<Option<_>>()?
            },
        },
        0x10 => Request::WriteRegisters {
            start: word(1)?,
            values: registers(3)?,
        },
        0x16 => Request::MaskWrite {
            address: word(1)?,
            and: word(3)?,
            or: word(5)?,
        },
        0x17 => Request::ReadWrite {
            read_start: word(1)?,
            read_count: word(3)?,
            write_start: word(5)?,
            values: registers(7)?,
        },
        0x2B if pdu.get(1) == Some(&MEI_IDENTIFY) => Request::Identify {
            access: *pdu.get(2)?,
            object: *pdu.get(3)?,
        },
        _ => return None,
    };
    // What does not come out as it went in was not understood.
    let mut again = Vec::new();
    request.encode(&mut again);
    (again == pdu).then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_as_they_were_sent() {
        let bits = vec![true, false, true, true, false, false, true, true, true];
        let requests = [
            Request::Read(ReadRequest {
                table: Table::Input,
                start: 7,
                count: 9,
            }),
            Request::WriteCoil {
                address: 3,
                on: true,
            },
            Request::WriteRegister {
                address: 3,
                value: 9,
            },
            Request::WriteCoils { start: 5, bits },
            Request::WriteRegisters {
                start: 5,
                values: vec![1, 2, 3],
            },
            Request::MaskWrite {
                address: 1,
                and: 2,
                or: 3,
            },
            Request::ReadWrite {
                read_start: 1,
                read_count: 2,
                write_start: 3,
                values: vec![4],
            },
            Request::Identify {
                access: 1,
                object: 2,
            },
        ];
        for request in requests {
            let mut pdu = Vec::new();
            request.encode(&mut pdu);
            assert_eq!(decode(&pdu), Some(request));
            assert_eq!(decode(&pdu[..pdu.len() - 1]), None);
        }
        assert_eq!(decode(&[0x07]), None);
        assert_eq!(decode(&[0x10, 0, 1, 0, 9, 2, 0, 1]), None);
    }
}
