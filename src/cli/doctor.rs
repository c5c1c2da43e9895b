//! `otter doctor`: checks the connection to the host step by step and prints one line for each
//! finding. With `--console` it then checks the way to the screen of one machine
//! (`doctor_console`). It exits with 0 if no check fails; a warning is no failure.

use std::io::IsTerminal;
use std::process::ExitCode;

use super::doctor_console::{ConsoleChecks, check_console};
use super::{DoctorArgs, allows_colour, print};
use crate::app;
use crate::clock::Clock;
use crate::domain::terminal::printable;
use crate::esx::{Finding, Outcome, diagnose};

pub async fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let DoctorArgs { console, restart, call, config_args } = args;
    let settings = app::settings(config_args.load()?, None)?;
    // Before the checks, which take a while, so that a mistake is reported at once.
    let restart = if restart { Some(call.connect().await?) } else { None };
    let terminal = std::io::stdout().is_terminal() && allows_colour();
    let mut on_finding = |finding: Finding| print(&line(&finding, terminal));
    let mut is_healthy = diagnose(&settings.esx, &Clock::system(), &mut on_finding)
        .await
        .map_err(app::wrong_host_settings)?;
    if let (true, Some(machine)) = (is_healthy, console) {
        let checks = ConsoleChecks { machine, restart };
        is_healthy = check_console(&settings, &checks, &mut on_finding).await?;
    }
    let verdict = if is_healthy {
        "All is well.\n"
    } else {
        "Not all is well. What could not be reached was not checked.\n"
    };
    print(verdict);
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(finding: &Finding, terminal: bool) -> String {
    let Finding { check, outcome, found, advice } = finding;
    let mark = match (outcome, terminal) {
        (Outcome::Good, true) => "\u{1b}[32m✓\u{1b}[0m",
        (Outcome::Good, false) => "ok    ",
        (Outcome::Warning, true) => "\u{1b}[33m!\u{1b}[0m",
        (Outcome::Warning, false) => "warn  ",
        (Outcome::Failed, true) => "\u{1b}[31m✗\u{1b}[0m",
        (Outcome::Failed, false) => "FAILED",
    };
    let advice = advice.as_ref().map(|advice| format!(" {advice}")).unwrap_or_default();
    let text = format!("{found}{advice}");
    format!("{mark} {check:<10}  {}\n", printable(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line() {
        let bad = Finding {
            check: "login",
            outcome: Outcome::Failed,
            found: "Refused.".to_owned(),
            advice: Some("Correct it.".to_owned()),
        };
        let hostile = Finding { found: "A\u{1b}[2J\nB".to_owned(), advice: None, ..bad.clone() };
        assert_eq!(line(&hostile, false), "FAILED login       A\\u{1b}[2J\\nB\n");
        assert_eq!(line(&bad, false), "FAILED login       Refused. Correct it.\n");
        let doubtful = Finding { outcome: Outcome::Warning, ..bad.clone() };
        assert_eq!(line(&doubtful, false), "warn   login       Refused. Correct it.\n");
        let good = Finding { outcome: Outcome::Good, advice: None, ..bad };
        assert_eq!(line(&good, true), "\u{1b}[32m✓\u{1b}[0m login       Refused.\n");
    }
}
