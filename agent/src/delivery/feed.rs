//! What the session asks and tells: one turn of the conversation each.

use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::Item;
use millrace_tags::Lane;
use millrace_uplink::{
    ConnectionReport, Consignment, Feed, Inbound, Incoming, Listening, Message, Parting, Reason,
    Refusal, SessionState, Window,
};
use tokio::sync::Notify;

use super::by_core::{ACK, Acks};
use super::metered::May;
use super::node::{Node, Turn};
use super::numbers::Numbers;
use super::pick::Pick;
use super::proof::{Gate, Proof};
use super::{Delivery, InFlight, NODE_INTERVAL, Sent, WAITING, connection};
use crate::command::Said;

impl Delivery {
    /// What an edge node has to say before data; `Err`: data may go.
    fn node_turn(&mut self) -> Result<Option<Consignment>, ()> {
        let Some(node) = &mut self.node else {
            return Err(());
        };
        while let Some(said) = self.commands.next() {
            match &said {
                Said::Begun(to) => node.begun(&to.id),
                Said::Reply(reply, _) => node.replied(reply),
            }
            self.commands.told(&said);
        }
        while let Some((id, records)) = node.ripe() {
            self.outbox.acked(id);
            self.uplink
                .update(|status| status.records_acked_total += records);
        }
        if node.sends_again() {
            // The session's word on these means nothing any more.
            self.in_flight
                .retain(|_, what| !matches!(what, InFlight::Offer { .. }));
            (self.held, self.alone) = (None, false);
            self.outbox.reconnected();
        }
        let turn = node.turn();
        let waits = node.waits_for();
        self.uplink.update(|status| match waits {
            Some(why) => {
                status.state = WAITING.to_owned();
                status.error = Some(why);
            }
            None if status.state == WAITING => {
                status.state = "connected".to_owned();
                status.error = None;
            }
            None => {}
        });
        match turn {
            Turn::Wait => Ok(None),
            Turn::Send(messages) => Ok(Some(Consignment {
                token: self.token(InFlight::Node),
                lane: Lane::Alarm,
                messages,
            })),
            Turn::Data => Err(()),
        }
    }
}

impl Feed for Delivery {
    fn connected(&mut self, report: &ConnectionReport) {
        let most = report.terms.max_packet.unwrap_or(usize::MAX);
        self.granted_max = self.settings.max_message.min(most);
        if let Some(node) = &mut self.node {
            node.connected();
        }
        let now = self.clock.timebase().utc(self.clock.now());
        self.uplink
            .update(|status| connection::show(status, report, now));
    }

    fn subscribed(&mut self, refused: &[(String, Reason)]) {
        let told = |(filter, reason): &(String, Reason)| format!("{filter}: {reason}");
        let refused = refused.iter().map(told).collect();
        self.uplink
            .update(|status| status.refused_subscriptions = refused);
    }

    fn greeting(&mut self) -> Vec<Message> {
        self.take_back();
        self.commands.connected();
        if self.seen.is_none() {
            self.seen = Some(self.clock.timebase());
            // It may have become known just before the program ended: rather told twice than never.
            self.clocks = self.outbox.late_clocks();
        }
        let mut greeting: Vec<Message> = self.ask_limits().into_iter().collect();
        greeting.extend(self.profile.greeting(&self.facts()));
        greeting
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        self.give_up_waiting();
        self.send_again();
        if self.alone && self.gated.is_none() {
            return None;
        }
        if let Ok(turn) = self.node_turn() {
            return turn;
        }
        if self.held.is_none()
            && let Some(aside) = self.aside()
        {
            return Some(aside);
        }
        let now = self.clock.now();
        let may = self.may_beside_core();
        if may == May::Nothing || self.pacer.wait(now).is_some() || self.waits_for_core(now) {
            return None;
        }
        loop {
            let mut offer = match self.gated.take() {
                Some(offer) => offer,
                None => match self.pick(window, may) {
                    Some(Pick::Offer(offer)) => offer,
                    Some(Pick::Probe) => return Some(self.probe()),
                    None => {
                        if let (Some(meter), true) = (&mut self.meter, window.backlog) {
                            meter.nothing(now);
                        }
                        return None;
                    }
                },
            };
            let trial = std::mem::take(&mut self.trial);
            let encoded = self.encode(&offer);
            if let Ok(messages) = &encoded
                && self.divides(&mut offer, messages.len())
            {
                self.trial = trial;
                self.gated = Some(offer);
                continue;
            }
            match (encoded, &offer.item) {
                (Ok(messages), _) => match self.gate(&messages, trial) {
                    Gate::Open => return Some(self.consign(&offer, messages)),
                    Gate::Wait => {
                        self.gated = Some(offer);
                        return None;
                    }
                    Gate::Shut(why) => {
                        self.alone = false;
                        self.unproven(&Sent::of(&offer, 0, 0), why);
                    }
                },
                (Err(error), Item::Parcel(parcel)) => {
                    let culprit = Numbers::of(parcel).only(error.seq());
                    self.alone = false;
                    self.take_unsendable(offer.id, &culprit, &error);
                }
                (Err(_), Item::Gap(_)) => self.outbox.acked(offer.id),
            }
        }
    }

    fn acked(&mut self, token: u64) {
        self.proven = true;
        let sent = match self.in_flight.remove(&token) {
            Some(InFlight::Offer(sent)) => sent,
            Some(InFlight::Said(said)) => return self.commands.told(&said),
            Some(InFlight::Clock(_) | InFlight::Probe | InFlight::Node) | None => return,
        };
        self.alone = false;
        let now = self.clock.now();
        if self.proof.as_mut().is_some_and(|p| p.acked(token, now)) {
            self.parked.insert(token, sent);
            return;
        }
        match self.left_to_core(token) {
            true => self.carried(&sent),
            false => self.settle(sent),
        }
    }

    fn refused(&mut self, token: u64, why: Refusal) {
        if let Some(node) = &mut self.node {
            node.stumbled();
        }
        match self.in_flight.remove(&token) {
            Some(InFlight::Offer(Sent {
                id,
                numbers: Some(numbers),
                bytes,
                ..
            })) => {
                self.forget_proof(token);
                self.forget_acks(token, id);
                self.take_refusal(id, &numbers, bytes, &why);
            }
            // Nobody can be told of this gap.
            Some(InFlight::Offer(sent)) => {
                self.forget_acks(token, sent.id);
                self.outbox.acked(sent.id);
            }
            Some(InFlight::Said(said)) => {
                tracing::error!(error = %why, "a reply cannot be sent");
                self.commands.fail(said, &why.to_string());
            }
            Some(InFlight::Node) => {
                if let Some(node) = &mut self.node {
                    node.refused(&why);
                }
            }
            // An answer proves the connection, whatever it says.
            Some(InFlight::Probe) if matches!(why, Refusal::Denied(_)) => self.proven = true,
            Some(InFlight::Clock(_) | InFlight::Probe) | None => {}
        }
    }

    async fn connecting(&mut self) -> Option<Parting> {
        Some(match &mut self.node {
            Some(node) => node.connecting().await,
            // Sealed with the key of now.
            None => Parting {
                will: self.profile.will(),
                farewell: self.profile.offline().into_iter().collect(),
            },
        })
    }

    fn unheard(&mut self) {
        if let Some(node) = &mut self.node {
            node.unheard();
        }
    }

    fn hangs_up(&self) -> bool {
        self.node.as_ref().is_some_and(Node::hangs_up)
    }

    fn walks_on(&mut self) -> bool {
        self.node.as_mut().is_some_and(Node::walks_on)
    }

    fn postponed(&mut self, token: u64) {
        match self.in_flight.remove(&token) {
            Some(InFlight::Offer(sent)) => {
                self.alone = false;
                self.forget_proof(token);
                self.forget_acks(token, sent.id);
                self.outbox.failed(sent.id);
            }
            Some(InFlight::Said(said)) => self.commands.say_again(said),
            Some(InFlight::Clock(timebase)) => self.clocks.push(timebase),
            Some(InFlight::Probe | InFlight::Node) | None => {}
        }
    }

    fn received(&mut self, message: Inbound) {
        if let Some(node) = &mut self.node {
            for command in node.received(&message.topic, &message.payload, message.retained) {
                self.commands.take(Ok(command));
            }
            return;
        }
        if let Some(limits) = self.profile.told_limits(&message.topic, &message.payload) {
            return self.learn_limits(&limits);
        }
        self.came_back(&message.topic, &message.payload);
        let incoming = Incoming {
            topic: &message.topic,
            payload: &message.payload,
            response_topic: message.properties.response_topic.as_deref(),
            correlation: message.properties.correlation.as_deref(),
        };
        let Some(commands) = self.profile.commands(&incoming) else {
            return;
        };
        if message.retained {
            let topic = &message.topic;
            tracing::warn!(target: "audit", topic, "a retained command was ignored: commands must not be retained");
            return;
        }
        for command in commands {
            match command {
                // Harmless however often it comes, and frequent: no line in the journal for each.
                Ok(mut command) if command.op == ACK => {
                    self.commands.name(&mut command);
                    let reply = self.take_ack(&command);
                    self.commands.answer(reply, command.reply_to);
                }
                command => self.commands.take(command),
            }
        }
    }

    fn listening(&mut self) -> Option<Listening> {
        self.proof.as_mut()?.listening()
    }

    fn listens(&mut self, filter: &str, granted: bool) {
        if let Some(proof) = &mut self.proof {
            proof.listens(filter, granted);
        }
    }

    fn pause(&self) -> Option<Duration> {
        let now = self.clock.now();
        let proof = self.proof.as_ref().and_then(Proof::next_overdue);
        let proof = proof.map(|due| due.since(now));
        let meter = self.meter.as_ref().map(|meter| meter.wait(now));
        let node = self.node.is_some().then_some(NODE_INTERVAL);
        let acks = self.acks.as_ref().and_then(Acks::next_overdue);
        let acks = acks.map(|due| due.since(now));
        let limits = self.limits_due(now);
        let waits = [node, proof, meter, acks, limits, self.pacer.wait(now)];
        waits.into_iter().flatten().min()
    }

    fn searches(&self) -> bool {
        self.suspects.is_searching()
    }

    fn state(&mut self, state: &SessionState) {
        if let SessionState::Down {
            closed, oversize, ..
        } = state
        {
            if *oversize {
                self.learn_size();
            }
            self.suspect(*closed);
            if let Some(proof) = &mut self.proof {
                proof.lost(*closed);
            }
        }
        self.uplink.note_refusals(state);
        self.uplink.update(|status| match state {
            SessionState::Connecting => status.state = "connecting".to_owned(),
            SessionState::Connected => {
                status.state = "connected".to_owned();
                status.error = None;
            }
            SessionState::Slowed { reason, next_try } => {
                status.error = Some(format!(
                    "the broker takes no messages for now: {reason}; they go on in {:.1} s",
                    next_try.as_secs_f64()
                ));
            }
            SessionState::Down { error, .. } => {
                status.state = "down".to_owned();
                status.error = Some(error.clone());
            }
        });
    }

    fn ready(&self) -> Arc<Notify> {
        self.ready.clone()
    }
}
