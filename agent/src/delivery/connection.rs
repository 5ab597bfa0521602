//! What people see of a connection: with whom it is, in which version, and whose certificate ends when.

use std::time::SystemTime;

use millrace_tags::Timestamp;
use millrace_uplink::ConnectionReport;

use crate::report::UplinkStatus;

/// A certificate that ends sooner than this is named: changing it takes people some days.
const WARN_DAYS: i64 = 21;
const DAY_S: i64 = 86_400;

/// Writes down what is known of a new connection. Without a clock, nobody is warned.
pub(super) fn show(status: &mut UplinkStatus, report: &ConnectionReport, now: Option<Timestamp>) {
    let terms = &report.terms;
    status.protocol = Some(terms.protocol.to_string());
    status.given_client_id.clone_from(&terms.client_id);
    status.endpoint = Some(report.endpoint.to_string());
    status.refused_subscriptions.clear();
    let [broker, own] = report.certificates_end;
    let shown =
        |end: Option<SystemTime>| end.map(|end| humantime::format_rfc3339_seconds(end).to_string());
    status.certificate_ends = shown(own);
    status.broker_certificate_ends = shown(broker);
    let ends = [
        ("our certificate", own),
        ("the broker's certificate", broker),
    ];
    status.warnings = ends
        .into_iter()
        .filter_map(|(whose, end)| Some(format!("{whose} {}", soon(end?, now?)?)))
        .collect();
}

/// What is said of an end that is near.
fn soon(end: SystemTime, now: Timestamp) -> Option<String> {
    let end = end.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let left = i64::try_from(end).ok()? - now.0.div_euclid(1_000_000_000);
    match left.div_euclid(DAY_S) {
        _ if left < 0 => Some("has ended".to_owned()),
        0 => Some("ends within a day".to_owned()),
        days if days < WARN_DAYS => Some(format!("ends in {days} days")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_is_named_three_weeks_ahead() {
        let now = Timestamp::from_unix_ms(1_763_690_000_000);
        let said = |days: i64| {
            let at = u64::try_from(1_763_690_000 + days * DAY_S + 60).unwrap();
            soon(SystemTime::UNIX_EPOCH + Duration::from_secs(at), now)
        };
        assert_eq!(said(21), None);
        assert_eq!(said(20).as_deref(), Some("ends in 20 days"));
        assert_eq!(said(0).as_deref(), Some("ends within a day"));
        assert_eq!(said(-1).as_deref(), Some("has ended"));
    }
}
