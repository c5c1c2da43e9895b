//! The notation of screens in scenarios and faults.

use serde::Deserialize;

use crate::simulator::guest_screen::{Layout, ScreenStage};
use crate::simulator::world::ScreenSource;

/// A stage of the guest's screen.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageEntry {
    Firmware,
    Menu,
    Kernel,
    Installer,
    #[default]
    Login,
    Desktop,
    Terminal,
    Blank,
}

/// The layout of a guest's keyboard.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutEntry {
    #[default]
    Us,
    De,
}

impl StageEntry {
    pub const fn convert(self) -> ScreenStage {
        match self {
            Self::Firmware => ScreenStage::Firmware,
            Self::Menu => ScreenStage::Menu,
            Self::Kernel => ScreenStage::Kernel,
            Self::Installer => ScreenStage::Installer,
            Self::Login => ScreenStage::Login,
            Self::Desktop => ScreenStage::Desktop,
            Self::Terminal => ScreenStage::Terminal,
            Self::Blank => ScreenStage::Blank,
        }
    }
}

impl LayoutEntry {
    pub const fn convert(self) -> Layout {
        match self {
            Self::Us => Layout::Us,
            Self::De => Layout::De,
        }
    }
}

/// What a console shows: `guest`, or `tcp:HOST:PORT` for a real RFB server.
///
/// # Errors
/// A message for people.
pub fn screen_source(text: &str) -> Result<ScreenSource, String> {
    if text == "guest" {
        return Ok(ScreenSource::Guest);
    }
    let address = text.strip_prefix("tcp:").filter(|address| {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
    });
    match address {
        Some(address) => Ok(ScreenSource::Bridge(address.to_owned())),
        None => Err(format!("{text:?} is neither \"guest\" nor \"tcp:HOST:PORT\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_the_guest_or_the_address_of_a_server() {
        assert_eq!(screen_source("guest"), Ok(ScreenSource::Guest));
        assert_eq!(
            screen_source("tcp:127.0.0.1:5907"),
            Ok(ScreenSource::Bridge("127.0.0.1:5907".to_owned()))
        );
        for wrong in ["", "vnc", "tcp:", "tcp:5907", "tcp::5907", "tcp:host:0", "tcp:host:x"] {
            assert!(screen_source(wrong).is_err(), "{wrong}");
        }
    }
}
