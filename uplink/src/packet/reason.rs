//! Reason codes of MQTT 5, what they mean for what is under way, and what people read of them.

use std::fmt;

/// A reason code of MQTT 5. The codes of 3.1.1 are translated into those that mean the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reason(pub u8);

/// What a PUBACK means for its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckFate {
    /// The broker has it.
    Taken,
    /// The broker took it, and nobody is subscribed.
    Unheard,
    /// Not now: a quota is used up, or the broker is busy. The message is good.
    Later,
    /// It was not taken, and the broker does not say why.
    Unexplained,
    /// We may not publish there.
    Denied,
    /// This message will never be taken.
    Never,
}

/// What a DISCONNECT of the broker means for what was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartingCause {
    /// One of the messages under way may be the cause.
    Message,
    /// One of the messages under way is too large.
    TooLarge,
    /// We send too much or too fast.
    Quota,
    /// Another client has our client id.
    TakenOver,
    /// It has nothing to do with what was under way.
    Other,
}

impl Reason {
    /// Taken, granted, a normal end.
    pub const SUCCESS: Reason = Reason(0x00);
    /// A client leaves, and wants its will published.
    pub const WITH_WILL: Reason = Reason(0x04);
    /// The broker does not speak this version.
    pub const UNSUPPORTED_PROTOCOL: Reason = Reason(0x84);

    /// The reason that a return code of a CONNACK of MQTT 3.1.1 stands for.
    pub(crate) fn of_connack_311(code: u8) -> Self {
        Reason(match code {
            1 => 0x84,
            2 => 0x85,
            3 => 0x88,
            4 => 0x86,
            5 => 0x87,
            other => other,
        })
    }

    /// The return code of a CONNACK of MQTT 3.1.1 that comes nearest.
    pub(crate) fn connack_311(self) -> u8 {
        match self.0 {
            0 => 0,
            0x84 => 1,
            0x85 => 2,
            0x86 => 4,
            0x87 | 0x8a => 5,
            _ => 3,
        }
    }

    /// Whether it stands for a refusal.
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether a refused connection will be refused until a person has changed something.
    pub fn is_lasting(self) -> bool {
        matches!(
            self.0,
            0x81 | 0x82
                | 0x84
                | 0x85
                | 0x86
                | 0x87
                | 0x8a
                | 0x8c
                | 0x90
                | 0x95
                | 0x99
                | 0x9a
                | 0x9b
                | 0x9d
        )
    }

    pub(crate) fn fate(self) -> AckFate {
        match self.0 {
            0x10 => AckFate::Unheard,
            0x00..0x80 => AckFate::Taken,
            0x89 | 0x91 | 0x93 | 0x96 | 0x97 => AckFate::Later,
            0x87 => AckFate::Denied,
            0x90 | 0x95 | 0x99 | 0x9a | 0x9b => AckFate::Never,
            _ => AckFate::Unexplained,
        }
    }

    pub(crate) fn parting(self) -> PartingCause {
        match self.0 {
            0x95 => PartingCause::TooLarge,
            0x96 | 0x97 => PartingCause::Quota,
            0x8e => PartingCause::TakenOver,
            0x80 | 0x81 | 0x82 | 0x83 | 0x87 | 0x90 | 0x99 | 0x9a | 0x9b => PartingCause::Message,
            _ => PartingCause::Other,
        }
    }

    /// What it means, for people.
    pub fn text(self) -> &'static str {
        match self.0 {
            0x00 => "done",
            0x01 | 0x02 => "granted",
            0x04 => "it leaves and has its will published",
            0x10 => "nobody is subscribed",
            0x80 => "it gives no reason",
            0x81 => "it says that a packet was malformed",
            0x82 => "it says that the protocol was broken",
            0x83 => "for a reason of its own kind",
            0x84 => "it does not speak this version of MQTT",
            0x85 => "it does not accept the client_id",
            0x86 => "wrong user name or password",
            0x87 => {
                "the client is not authorised; check user name, password, client_id and certificate"
            }
            0x88 => "the service is unavailable for now",
            0x89 => "it is busy",
            0x8a => "this client is banned",
            0x8b => "it is shutting down",
            0x8c => "it wants another method of authentication",
            0x8d => "it heard nothing from us for one and a half keep-alives",
            0x8e => "another client connected with the same client_id",
            0x8f => "it does not accept the topic filter",
            0x90 => "it does not accept the topic",
            0x91 => "the packet id is in use",
            0x93 => "more messages were under way than it allows",
            0x94 => "it does not know the topic alias",
            0x95 => "a packet was larger than it takes",
            0x96 => "messages come faster than it allows",
            0x97 => "a quota is used up",
            0x98 => "an administrator closed the connection",
            0x99 => "the payload is not of the announced format",
            0x9a => "it keeps no retained messages",
            0x9b => "it does not support the quality of service",
            0x9c => "another server is to be used for now",
            0x9d => "the server has moved",
            0x9e => "it has no shared subscriptions",
            0x9f => "connections come faster than it allows",
            0xa0 => "the connection lasted as long as it may",
            0xa1 => "it has no subscription identifiers",
            0xa2 => "it has no subscriptions with wildcards",
            _ => "it gives no known reason",
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

/// Text and code.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (reason {:#04x})", self.text(), self.0)
    }
}
