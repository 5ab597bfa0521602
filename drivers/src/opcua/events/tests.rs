use opcua::types::{LocalizedText, UAString};

use super::*;

fn told(
    condition: Option<u32>,
    active: Option<bool>,
    severity: u16,
    message: &str,
) -> EventFieldList {
    let optional = |value: Option<Variant>| value.unwrap_or_default();
    let kind = match condition {
        Some(_) => ObjectTypeId::AlarmConditionType,
        None => ObjectTypeId::BaseEventType,
    };
    let fields = vec![
        Variant::from(NodeId::from(kind)),
        Variant::from(NodeId::new(2, "Tank")),
        Variant::from("Tank"),
        Variant::Empty,
        Variant::from(LocalizedText::new("en", message)),
        Variant::UInt16(severity),
        optional(condition.map(|id| Variant::from(NodeId::new(2, id)))),
        optional(condition.map(|_| Variant::String(UAString::from("high level")))),
        optional(condition.map(|_| Variant::Boolean(true))),
        optional(active.map(Variant::Boolean)),
        Variant::Empty,
    ];
    EventFieldList {
        client_handle: 0,
        event_fields: Some(fields),
    }
}

fn refresh(kind: ObjectTypeId) -> EventFieldList {
    EventFieldList {
        client_handle: 0,
        event_fields: Some(vec![Variant::from(NodeId::from(kind))]),
    }
}

fn take(active: &mut Active, fields: EventFieldList, at: i64) -> Vec<Event> {
    let namespaces = ["http://opcfoundation.org/UA/", "urn:server", "urn:plant"];
    let fields = Fields::read(fields, &namespaces.map(str::to_owned)).expect("fields");
    active.take(fields, 100, Moment(at))
}

fn phases(events: &[Event]) -> Vec<(EventState, i64, Option<i64>)> {
    let phase = |event: &Event| (event.state, event.start.0, event.end.map(|end| end.0));
    events.iter().map(phase).collect()
}

#[test]
fn a_condition_begins_goes_on_and_ends() {
    let mut active = Active::default();
    let begun = take(&mut active, told(Some(7), Some(true), 700, "too high"), 1);
    assert_eq!(phases(&begun), [(EventState::Begin, 1, None)]);
    let EventDetail::Alarm {
        message,
        told: Some(about),
    } = &begun[0].detail
    else {
        panic!("{begun:?}");
    };
    assert_eq!((about.severity, message.as_str()), (700, "too high"));
    assert_eq!(about.node.as_deref(), Some("nsu=urn:plant;s=Tank"));
    assert_eq!(about.condition.as_deref(), Some("high level"));
    // The same again is no news.
    assert!(take(&mut active, told(Some(7), Some(true), 700, "too high"), 2).is_empty());
    let updated = take(
        &mut active,
        told(Some(7), Some(true), 900, "far too high"),
        3,
    );
    assert_eq!(phases(&updated), [(EventState::Update, 1, None)]);
    // However harmless it has become: what began ends.
    let ended = take(&mut active, told(Some(7), Some(false), 1, "well"), 4);
    assert_eq!(phases(&ended), [(EventState::End, 1, Some(4))]);
    assert!(take(&mut active, told(Some(7), Some(false), 700, "well"), 5).is_empty());
}

#[test]
fn other_events_begin_and_end_at_once() {
    let mut active = Active::default();
    let event = take(&mut active, told(None, None, 100, "started"), 5);
    assert_eq!(phases(&event), [(EventState::End, 5, Some(5))]);
    assert!(take(&mut active, told(None, None, 99, "quiet"), 6).is_empty());
    assert!(take(&mut active, told(Some(1), Some(true), 99, "quiet"), 7).is_empty());
}

#[test]
fn what_ended_while_nobody_listened_ends_with_the_refresh() {
    let mut active = Active::default();
    take(&mut active, told(Some(1), Some(true), 500, "one"), 1);
    take(&mut active, told(Some(2), Some(true), 500, "two"), 2);
    assert!(take(&mut active, refresh(ObjectTypeId::RefreshStartEventType), 3).is_empty());
    assert!(take(&mut active, told(Some(2), Some(true), 500, "two"), 4).is_empty());
    let ended = take(&mut active, refresh(ObjectTypeId::RefreshEndEventType), 5);
    assert_eq!(phases(&ended), [(EventState::End, 1, Some(5))]);
    let still = take(&mut active, told(Some(2), Some(false), 500, "two"), 6);
    assert_eq!(phases(&still), [(EventState::End, 2, Some(6))]);
}

#[test]
fn an_event_without_a_type_is_none() {
    let empty = EventFieldList {
        client_handle: 0,
        event_fields: None,
    };
    assert!(Fields::read(empty, &[]).is_none());
}
