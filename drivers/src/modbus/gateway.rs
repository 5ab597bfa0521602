//! A line as seen by a tool that may not open its port: Modbus TCP in, turns of the line out.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_modbus::ExceptionCode;

use super::frame::mbap::{HEADER_BYTES, Header, PDU_BYTES_MAX};
use super::line::Line;
use super::link::{Peer, Transport};
use super::reply::{Answer, EXCEPTION_FLAG};
use super::request::{MEI_IDENTIFY, Request};
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
        let reply = match Request::decode(&pdu) {
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
