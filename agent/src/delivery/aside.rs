//! What goes ahead of data: answers to commands, and the clock of a boot once it is known.

use millrace_tags::{Lane, Timebase};
use millrace_uplink::{Consignment, Message};

use super::{Delivery, InFlight};
use crate::command::Said;

impl Delivery {
    /// Replies and the clock message: small, rare, ahead of everything.
    pub(super) fn aside(&mut self) -> Option<Consignment> {
        let (message, what) = match self.clock_message() {
            Some((message, timebase)) => (message, InFlight::Clock(timebase)),
            None => {
                let (message, said) = self.said()?;
                (message, InFlight::Said(said))
            }
        };
        Some(Consignment {
            token: self.token(what),
            lane: Lane::Alarm,
            messages: vec![message],
        })
    }

    /// What commands have to say, as far as the core's format has that.
    fn said(&mut self) -> Option<(Message, Said)> {
        loop {
            let said = self.commands.next()?;
            let message = match &said {
                Said::Begun(to) => self.profile.begun(to),
                Said::Reply(reply, to) => {
                    let now = self.clock.timebase().utc(self.clock.now());
                    self.profile.reply(reply, to, now)
                }
            };
            match message {
                Some(message) => return Some((message, said)),
                None => self.commands.told(&said),
            }
        }
    }

    /// What the core has to hear once the clock of a boot is known.
    fn clock_message(&mut self) -> Option<(Message, Timebase)> {
        if self.seen.is_some_and(|seen| seen.offset_ns.is_none()) {
            let timebase = self.clock.timebase();
            self.seen = Some(timebase);
            self.clocks.extend(timebase.offset_ns.map(|_| timebase));
        }
        let timebase = self.clocks.pop()?;
        Some((self.profile.clock(&timebase)?, timebase))
    }
}
