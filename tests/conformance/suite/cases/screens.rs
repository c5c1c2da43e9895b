//! Screens: connections to them, and their pictures.

use anyhow::{Context, Result, bail, ensure};
use otter::domain::ids::MachineId;
use otter::hypervisor::{Capability, HostErrorKind, ScreenObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::case_table;
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        a_screen_speaks_rfb needs [Screens],
        a_machine_that_is_off_has_no_screen needs [Screens],
        a_screen_has_a_picture needs [Screens],
        screens_of_an_unknown_machine_are_not_found needs [Screens];
}

/// The first bytes of a server of RFB 3.8.
const GREETING: &[u8] = b"RFB 003.008\n";

async fn a_screen_speaks_rfb(test: &TestContext) -> Result<()> {
    let (backend, machine) = (&test.backend, &test.machines.running);
    if !backend.capabilities().contains(&Capability::Screens) {
        return match backend.open_screen(machine).await {
            Err(error) if error.kind == HostErrorKind::NotSupported => Ok(()),
            Err(error) => bail!("without the capability, open_screen returned {error:?}"),
            Ok(_) => bail!("without the capability, open_screen opened one"),
        };
    }
    // A machine can have several connections, each with a beginning of its own.
    for _ in 0..2 {
        let mut screen = test.in_time("a screen", backend.open_screen(machine)).await??;
        let mut greeting = vec![0; GREETING.len()];
        let read = screen.stream.read_exact(&mut greeting);
        test.in_time("the greeting", read).await?.context("the greeting")?;
        ensure!(greeting == GREETING, "{greeting:?}");
        test.in_time("the end", screen.stream.shutdown()).await?.context("the end")?;
    }
    let logins = test.observer.read(|recording| recording.status().map(|status| status.logins));
    ensure!(logins == Some(1), "{logins:?} logins");
    Ok(())
}

async fn a_machine_that_is_off_has_no_screen(test: &TestContext) -> Result<()> {
    use HostErrorKind::{InvalidPowerState, InvalidState, NotSupported};
    match test.backend.open_screen(&test.machines.stopped).await {
        Ok(_) => bail!("a machine that is off has a screen"),
        Err(error) => {
            let is_right = matches!(error.kind, InvalidPowerState | InvalidState | NotSupported);
            ensure!(is_right, "{error:?}");
            Ok(())
        }
    }
}

async fn a_screen_has_a_picture(test: &TestContext) -> Result<()> {
    let object = ScreenObject::Machine(test.machines.running.clone());
    let read = test.in_time("a picture", test.backend.screen_picture(&object)).await?;
    if !test.backend.capabilities().contains(&Capability::ScreenPictures) {
        return match read {
            Err(error) if error.kind == HostErrorKind::NotSupported => Ok(()),
            other => bail!("without the capability, screen_picture returned {other:?}"),
        };
    }
    ensure!(read?.starts_with(b"\x89PNG\r\n\x1a\n"), "it is no PNG");
    Ok(())
}

async fn screens_of_an_unknown_machine_are_not_found(test: &TestContext) -> Result<()> {
    let unknown = MachineId::from_backend("no-such-machine");
    let capabilities = test.backend.capabilities();
    if capabilities.contains(&Capability::Screens) {
        match test.backend.open_screen(&unknown).await {
            Err(error) if error.kind == HostErrorKind::NotFound => {}
            Err(error) => bail!("open_screen of an unknown machine returned {error:?}"),
            Ok(_) => bail!("an unknown machine has a screen"),
        }
    }
    if capabilities.contains(&Capability::ScreenPictures) {
        match test.backend.screen_picture(&ScreenObject::Machine(unknown)).await {
            Err(error) if error.kind == HostErrorKind::NotFound => {}
            other => bail!("screen_picture of an unknown machine returned {other:?}"),
        }
    }
    let logins = test.observer.read(|recording| recording.status().map(|status| status.logins));
    ensure!(logins == Some(1), "{logins:?} logins");
    Ok(())
}
