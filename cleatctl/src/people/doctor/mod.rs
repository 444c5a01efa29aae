//! `doctor`: every check that can be made from outside, and of this host what is asked for; PASS, WARN or FAIL, with a
//! remedy.

mod host;

use crate::people::status::findings::{Finding, Level, live, setup};
use crate::people::status::gather::{Depth, Observer};
use crate::people::status::{findings_as_json, screen, worst};
use crate::people::terminal::{Terminal, Tone};
use crate::people::{Format, Session, print_in_passing};
use anyhow::{Result, bail};
use std::path::PathBuf;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct DoctorArgs {
    /// A member's data directory on this host.
    pub(crate) data_dir: Option<PathBuf>,
    /// Its log's, if that is elsewhere.
    pub(crate) wal_dir: Option<PathBuf>,
    /// A domain whose SRV records name the members.
    pub(crate) srv_domain: Option<String>,
    /// The service name in front of the records' names.
    pub(crate) srv_name: Option<String>,
    /// A warning is a failure, too.
    pub(crate) is_strict: bool,
}

/// Makes the checks.
///
/// # Errors
/// One of them failed.
pub(crate) async fn doctor(session: &Session, args: &DoctorArgs) -> Result<()> {
    let facts = Observer::new(&session.options, Depth::Setup)?.look().await;
    let mut findings = live(&facts);
    findings.extend(setup(&facts));
    findings.extend(host::checks(args, &facts).await);
    match session.format {
        Format::Json => print_in_passing(&format!("{}\n", findings_as_json(&findings)))?,
        Format::Text => print_in_passing(&render(&findings, &session.terminal))?,
    }
    match worst(&findings) {
        Level::Fail => bail!("not everything is in order"),
        Level::Warn if args.is_strict => bail!("there are warnings (--strict)"),
        Level::Warn | Level::Pass => Ok(()),
    }
}

fn render(findings: &[Finding], terminal: &Terminal) -> String {
    let columns = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut lines: String = findings.iter().map(|finding| screen::finding(finding, columns, terminal)).collect();
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (passed, warned, failed) = (count(Level::Pass), count(Level::Warn), count(Level::Fail));
    let tone = match worst(findings) {
        Level::Pass => Tone::Good,
        Level::Warn => Tone::Warning,
        Level::Fail => Tone::Bad,
    };
    let summary = format!("{passed} passed, {warned} to be looked after, {failed} failed");
    lines.push_str(&format!("\n{}\n", terminal.paint(tone, &summary)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::{assert_recorded, outputs};
    use crate::people::status::facts::Admission;
    use crate::people::status::samples::{healthy, troubled};

    #[test]
    fn every_report_is_as_recorded() {
        let mut exposed = troubled();
        for (at, member) in exposed.members.iter_mut().enumerate() {
            if at == 1 {
                member.client_urls = vec!["http://10.0.0.2:2379".to_owned()];
                member.peer_urls = vec!["http://10.0.0.2:2380".to_owned()];
                member.peer_ports = vec![("http://10.0.0.2:2380".to_owned(), Err("Connection refused".to_owned()))];
                member.admissions = Vec::new();
            } else {
                let urls = member.client_urls.iter().chain(&member.peer_urls);
                member.admissions = urls.map(|url| (url.clone(), Admission::LetIn)).collect();
            }
        }
        for (name, terminal) in outputs() {
            for (kind, facts) in [("healthy", &healthy()), ("troubled", &exposed)] {
                let mut findings = live(facts);
                findings.extend(setup(facts));
                assert_recorded(&format!("doctor-{kind}-{name}"), &render(&findings, &terminal));
            }
        }
    }
}
