use std::collections::BTreeMap;

use super::*;
use crate::report::{LastChange, ModelStatus, ShadowStatus, TrialStatus};

/// A gateway with one of everything, something wrong with most.
pub(crate) fn example() -> Status {
    Status {
        gateway: "gw-1".into(),
        version: "0.1.0".into(),
        uptime_s: 273_600,
        config: ConfigStatus {
            source: "last-good".into(),
            problems: vec![
                "/etc/millrace/millrace.toml:12:1: unknown key `adress`; the nearest known key is \
                 `address`"
                    .into(),
            ],
            notes: vec!["device boiler: the local table wins over the cloud's".into()],
            last_change: Some(LastChange {
                state: "taken-back".into(),
                who: "uplink cloud".into(),
                error: Some(
                    "device boiler delivered good values before, and none within 60 s".into(),
                ),
            }),
        },
        devices: vec![
            DeviceStatus {
                name: "boiler".into(),
                driver: "modbus-tcp".into(),
                address: "10.0.0.5:502".into(),
                state: DeviceState::Online,
                tags: 45,
                tags_good: 44,
                reads_total: 1_234_567,
                read_ms: 3.1,
                ..DeviceStatus::default()
            },
            DeviceStatus {
                name: "tank-farm".into(),
                driver: "opcua".into(),
                address: "opc.tcp://10.0.0.6:4840".into(),
                state: DeviceState::Offline,
                error: Some("cannot connect to 10.0.0.6:4840: connection refused".into()),
                tags: 30,
                read_errors_total: 12,
                ..DeviceStatus::default()
            },
        ],
        models: vec![ModelStatus {
            name: "pump-anomaly".into(),
            version: Some("1.0.0".into()),
            state: "running".into(),
            score: Some(0.41),
            ratio: Some(0.22),
            windows_total: 9_120,
            windows_shed_total: 12,
            window_ms: Some(0.041),
            trial: Some(TrialStatus {
                left_s: 540,
                previous: Some("0.9.0".into()),
            }),
            shadow: Some(ShadowStatus {
                version: "1.1.0".into(),
                windows_compared: 4_100,
                ratio_difference_mean: Some(0.012),
                ratio_difference_max: Some(0.31),
                alarms_only_shadow: 2,
                events_shadow: 1,
                ..ShadowStatus::default()
            }),
            ..ModelStatus::default()
        }],
        uplinks: vec![UplinkStatus {
            name: "cloud".into(),
            url: "mqtts://core.example:8883".into(),
            profile: "generic".into(),
            state: "down".into(),
            error: Some("connection refused".into()),
            records_acked_total: 55_000_000,
            ..UplinkStatus::default()
        }],
        buffer: BufferStatus {
            dir: "/var/lib/millrace/buffer".into(),
            bytes: 12_900_000,
            max_bytes: 4 << 30,
            epochs: 3,
            queued: BTreeMap::from([("cloud".into(), 120_400)]),
            commit_age_s: Some(0.4),
            runway_s: Some(9 * 86_400),
            ..BufferStatus::default()
        },
        clock: ClockStatus {
            set: true,
            utc: Some("2026-11-21T07:50:13Z".into()),
        },
        bootstrap: Some(BootstrapStatus {
            provider: "mainflux".into(),
            state: "pending".into(),
            message: Some("core.example answered 404: add the external id gw-1 there".into()),
            claim: None,
        }),
        problems: vec![
            "device tank-farm is offline: cannot connect to 10.0.0.6:4840: connection refused"
                .into(),
            "uplink cloud is down: connection refused".into(),
        ],
    }
}

#[test]
fn one_screen() {
    insta::assert_snapshot!(render(&example()));
}

#[test]
fn a_young_agent_without_devices() {
    let status = Status {
        gateway: "gw-1".into(),
        version: "0.1.0".into(),
        config: ConfigStatus {
            source: "none".into(),
            ..ConfigStatus::default()
        },
        ..Status::default()
    };
    insta::assert_snapshot!(render(&status));
}

#[test]
fn a_failed_commit_stands_out() {
    let buffer = BufferStatus {
        commit_error: Some("no space left on device".into()),
        commit_age_s: Some(900.0),
        ..BufferStatus::default()
    };
    assert!(buffer_line(&buffer).contains("COMMITS FAIL: no space left on device"));
}
