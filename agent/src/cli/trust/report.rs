//! What was found, as text and as JSON.

use std::fmt::Write as _;
use std::process::ExitCode;

use millrace_drivers::opcua::{CertificateReport, EndpointReport, Inspection};
use serde_json::{Value, json};

use super::super::show;
use super::super::table::Table;

/// Clocks that differ by less are one: the way to the server takes its time, too.
const CLOCKS_DIFFER_MS: u64 = 2000;

/// What was found, and of whom.
pub(super) struct Findings<'a> {
    /// The device that is configured so.
    pub(super) device: Option<&'a str>,
    pub(super) inspection: &'a Inspection,
}

/// Whether a session opens: what is remarked of it, or why not.
pub(super) struct Tried(pub(super) Result<Vec<String>, String>);

impl Tried {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self.0 {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }
}

pub(super) fn document(findings: &Findings<'_>, tried: &Tried, pinned: Option<&str>) -> Value {
    let inspection = findings.inspection;
    let endpoints = inspection.endpoints.iter().map(|e| {
        json!({
            "url": e.url, "policy": e.policy, "mode": e.mode, "spoken": e.spoken,
            "user_tokens": e.user_tokens, "security_level": e.security_level,
            "application_uri": e.application_uri, "thumbprint": e.thumbprint,
            "subject": e.subject,
            "valid_from": e.validity.as_ref().map(|v| &v.0),
            "valid_to": e.validity.as_ref().map(|v| &v.1),
        })
    });
    let certificates = inspection.certificates.iter().map(|c| {
        let faults = c.faults.iter();
        let faults = faults.map(|f| json!({"cause": f.cause, "message": f.message, "hint": f.hint}));
        json!({
            "thumbprint": c.thumbprint, "sha256": c.sha256, "subject": c.subject, "issuer": c.issuer,
            "uris": c.uris, "hosts": c.hosts, "valid_from": c.validity.0, "valid_to": c.validity.1,
            "rsa_bits": c.rsa_bits, "trusted_by": c.trusted_by, "remarks": c.remarks,
            "faults": faults.collect::<Vec<Value>>(),
        })
    });
    json!({
        "device": findings.device,
        "endpoints": endpoints.collect::<Vec<Value>>(),
        "certificates": certificates.collect::<Vec<Value>>(),
        "clock_ahead_ms": inspection.clock_ahead_ms,
        "session": {
            "ok": tried.0.is_ok(),
            "error": tried.0.as_ref().err(),
            "remarks": tried.0.as_ref().unwrap_or(&Vec::new()),
        },
        "pinned": pinned,
    })
}

/// Who is there and what it offers.
pub(super) fn server(findings: &Findings<'_>) -> String {
    let inspection = findings.inspection;
    let mut text = String::new();
    if let Some(device) = findings.device {
        let _ = writeln!(text, "device       {device}, as it is configured");
    }
    let applications: Vec<&str> = distinct(&inspection.endpoints, |e| &e.application_uri);
    let _ = writeln!(text, "application  {}", applications.join(", "));
    if let Some(clock) = clock(inspection.clock_ahead_ms) {
        let _ = writeln!(text, "clock        {clock}");
    }
    text.push('\n');
    for report in &inspection.certificates {
        text.push_str(&certificate(report));
        text.push('\n');
    }
    let mut table = Table::new(["POLICY", "MODE", ">LEVEL", "USABLE", "LOGINS"]);
    for endpoint in &inspection.endpoints {
        table.row([
            endpoint.policy.clone(),
            endpoint.mode.clone(),
            endpoint.security_level.to_string(),
            if endpoint.spoken { "yes" } else { "no" }.into(),
            endpoint.user_tokens.join(", "),
        ]);
    }
    text.push_str(&table.render(""));
    text
}

fn certificate(report: &CertificateReport) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "certificate  {}", report.subject);
    if let Some(issuer) = &report.issuer {
        let _ = writeln!(text, "signed by    {issuer}");
    }
    let _ = writeln!(text, "thumbprint   {}", report.thumbprint);
    let _ = writeln!(text, "SHA-256      {}", report.sha256);
    let names: Vec<&str> = report
        .uris
        .iter()
        .chain(&report.hosts)
        .map(String::as_str)
        .collect();
    let _ = writeln!(text, "for          {}", names.join(", "));
    let _ = writeln!(
        text,
        "valid        {} to {}",
        report.validity.0, report.validity.1
    );
    let key = report.rsa_bits.map_or_else(
        || "no RSA key".to_owned(),
        |bits| format!("RSA, {bits} bits"),
    );
    let _ = writeln!(text, "key          {key}");
    let _ = writeln!(
        text,
        "trusted      {}",
        report.trusted_by.as_deref().unwrap_or("no")
    );
    for fault in &report.faults {
        text.push_str(&show::bullet(
            "! ",
            &format!("{}; {}", fault.message, fault.hint),
        ));
    }
    for remark in &report.remarks {
        text.push_str(&show::bullet("- ", remark));
    }
    text
}

/// Whether a session opens, and what was pinned.
pub(super) fn outcome(tried: &Tried, pinned: Option<&str>) -> String {
    let mut text = String::from("\n");
    if let Some(thumbprint) = pinned {
        let _ = writeln!(
            text,
            "pinned {thumbprint}: the agent trusts this server now"
        );
    }
    match &tried.0 {
        Ok(remarks) => {
            text.push_str("A session opens.\n");
            for remark in remarks {
                text.push_str(&show::bullet("- ", remark));
            }
        }
        Err(error) => text.push_str(&show::bullet("NO SESSION: ", error)),
    }
    text
}

/// How far the clocks are apart, where that is worth a word.
fn clock(ahead_ms: Option<i64>) -> Option<String> {
    let ahead_ms = ahead_ms?;
    let apart = ahead_ms.unsigned_abs();
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let apart_s = std::time::Duration::from_secs(apart / 1000);
    (apart >= CLOCKS_DIFFER_MS).then(|| {
        format!(
            "the server's is {} {way} the gateway's",
            humantime::format_duration(apart_s)
        )
    })
}

fn distinct(endpoints: &[EndpointReport], of: impl Fn(&EndpointReport) -> &String) -> Vec<&str> {
    let mut seen: Vec<&str> = Vec::new();
    for endpoint in endpoints {
        let text = of(endpoint).as_str();
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen
}
