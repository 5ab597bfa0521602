//! Who a unit is: function 43, MEI type 14 (Modbus Application Protocol V1.1b3, 6.21).
//!
//! The objects come in three streams (basic, regular, extended), each in as many replies as it takes.

use std::collections::BTreeMap;

use super::caller::{Caller, Heard};
use super::request::Request;
use crate::SessionError;

/// Replies of one stream: there are no more objects than this.
const REPLIES_MAX: usize = 256;

/// The streams, in the order of what they add.
const STREAMS: [u8; 3] = [1, 2, 3];

/// What a unit says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identification {
    /// The highest stream that it offers, as it says: 1 basic, 2 regular, 3 extended.
    pub conformity: u8,
    /// Its objects by number.
    pub objects: BTreeMap<u8, String>,
}

impl Identification {
    /// An object's name, where the specification gives it one.
    pub fn name(object: u8) -> Option<&'static str> {
        const NAMES: [&str; 7] = [
            "vendor",
            "product-code",
            "revision",
            "vendor-url",
            "product-name",
            "model-name",
            "application-name",
        ];
        NAMES.get(usize::from(object)).copied()
    }

    /// Vendor, product and revision on one line; empty where it says nothing.
    pub fn summary(&self) -> String {
        let told = [0, 1, 2].iter().filter_map(|id| self.objects.get(id));
        let told: Vec<&str> = told.map(|text| text.trim()).collect();
        told.join(" ").trim().to_owned()
    }
}

/// Asks a unit for all streams that it offers. `None` where it offers none, or nobody answers.
///
/// # Errors
/// There is no way to the unit.
pub async fn identify(
    caller: &mut Caller,
    unit: u8,
) -> Result<Option<Identification>, SessionError> {
    let mut found = Identification::default();
    for stream in STREAMS {
        if stream > 1 && found.conformity < stream {
            break;
        }
        let before = found.objects.len();
        if !read_stream(caller, unit, stream, &mut found).await? && before == 0 {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

/// Whether the unit offers the stream.
async fn read_stream(
    caller: &mut Caller,
    unit: u8,
    access: u8,
    found: &mut Identification,
) -> Result<bool, SessionError> {
    let mut object = 0;
    for _ in 0..REPLIES_MAX {
        let Heard::Data(data) = caller
            .call(unit, &Request::Identify { access, object })
            .await?
        else {
            return Ok(false);
        };
        let Some(next) = take(&data, found) else {
            return Ok(false);
        };
        match next {
            // A unit that sends us in a circle is done.
            Some(next) if next > object => object = next,
            _ => return Ok(true),
        }
    }
    Ok(true)
}

/// Takes the objects of one reply; the object that follows, where one does. `None`: this is no reply.
fn take(data: &[u8], found: &mut Identification) -> Option<Option<u8>> {
    // Bit 7 says that objects can be asked for one by one, too.
    const LEVEL: u8 = 0x7F;
    let [_, conformity, more, next, _, rest @ ..] = data else {
        return None;
    };
    found.conformity = found.conformity.max(conformity & LEVEL);
    let mut rest = rest;
    while let [id, length, tail @ ..] = rest {
        let text = tail.get(..usize::from(*length))?;
        found
            .objects
            .insert(*id, String::from_utf8_lossy(text).into_owned());
        rest = &tail[usize::from(*length)..];
    }
    Some((*more != 0).then_some(*next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_one_after_the_other() {
        let mut found = Identification::default();
        let first = [1, 0x82, 0xFF, 1, 1, 0, 3, b'A', b'c', b'e'];
        assert_eq!(take(&first, &mut found), Some(Some(1)));
        let second = [1, 0x82, 0, 0, 2, 1, 1, b'X', 2, 2, b'v', b'1'];
        assert_eq!(take(&second, &mut found), Some(None));
        assert_eq!(found.conformity, 2);
        assert_eq!(found.summary(), "Ace X v1");
        assert_eq!(take(&[1, 1, 0], &mut found), None);
        assert_eq!(take(&[1, 1, 0, 0, 1, 0, 9, b'A'], &mut found), None);
    }
}
