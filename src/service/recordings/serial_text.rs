//! Makes the artifacts of a recorded serial port: a log with its bytes, and a recording that
//! terminal players play (asciicast v2).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::rec_file::{Entry, RecReader, Recorded};

/// Writes the bytes of a port. A line says where bytes may be missing, and why.
///
/// # Errors
/// Fails if a file cannot be read or written.
pub fn write_log(path: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut reader = RecReader::new(File::open(path)?)?;
    while let Some(Entry { what, .. }) = reader.read_entry()? {
        match what {
            Recorded::Serial { bytes, .. } => out.write_all(&bytes)?,
            Recorded::Gap { reason, .. } => {
                write!(out, "\r\n[otter: bytes may be missing here: {reason}]\r\n")?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the output of a port in the format asciicast v2: a header, and one line of JSON for each
/// output and each gap, with its time in seconds.
///
/// # Errors
/// Fails if a file cannot be read or written.
pub fn write_cast(path: &Path, title: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut reader = RecReader::new(File::open(path)?)?;
    let mut decoder = Utf8Decoder::default();
    let mut has_header = false;
    while let Some(Entry { at, what }) = reader.read_entry()? {
        if let Recorded::Start(microseconds) = what
            && !has_header
        {
            write_header(microseconds, title, out)?;
            has_header = true;
        }
        let event = match what {
            Recorded::Serial { bytes, .. } => Some(("o", decoder.decode(&bytes))),
            Recorded::Gap { reason, .. } => Some(("m", format!("bytes may be missing: {reason}"))),
            _ => None,
        };
        if let Some((kind, data)) = event.filter(|(_, data)| has_header && !data.is_empty()) {
            let seconds = Duration::from_millis(at).as_secs_f64();
            serde_json::to_writer(&mut *out, &(seconds, kind, data))?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn write_header(microseconds: i64, title: &str, out: &mut dyn Write) -> io::Result<()> {
    // A serial port has no size. This is the one that most programs assume.
    let header = serde_json::json!({
        "version": 2,
        "width": 80,
        "height": 24,
        "timestamp": microseconds / 1_000_000,
        "title": title,
    });
    writeln!(out, "{header}")
}

/// Decodes UTF-8 that comes in pieces, which may end within a character.
#[derive(Debug, Default)]
struct Utf8Decoder {
    /// The beginning of a character whose end has not come yet.
    begun: Vec<u8>,
}

impl Utf8Decoder {
    /// Decodes the next piece. A byte that is no UTF-8 becomes U+FFFD.
    fn decode(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(piece);
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(length) = error.error_len() else {
                        invalid.clone_into(&mut self.begun);
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = invalid.get(length..).unwrap_or_default();
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rec_file::RecWriter;
    use super::*;

    fn recording(entries: Vec<(u64, Recorded)>) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ttyS0.rec");
        let (mut writer, _) = RecWriter::open(&path, 1 << 20).unwrap();
        for (at, what) in entries {
            writer.append(&Entry { at, what }).unwrap();
        }
        (folder, path)
    }

    fn serial(offset: u64, bytes: &[u8]) -> Recorded {
        Recorded::Serial { offset, bytes: bytes.to_vec() }
    }

    #[test]
    fn the_log_has_the_bytes_and_the_cast_their_times() {
        let gap = Recorded::Gap { offset: 40, reason: "the host dropped the line".to_owned() };
        let (_folder, path) = recording(vec![
            (0, Recorded::Start(1_700_000_000_000_000)),
            (250, serial(0, b"login: \xc3")),
            (1_500, serial(8, b"\xa4\x1b[0m\xff")),
            (2_000, gap),
            (3_000, Recorded::Start(1_700_000_009_000_000)),
            (3_250, serial(40, b"#\r\n")),
            (4_000, Recorded::End("the lease ended".to_owned())),
        ]);
        let mut log = Vec::new();
        write_log(&path, &mut log).unwrap();
        let expected =
            b"login: \xc3\xa4\x1b[0m\xff\r\n[otter: bytes may be missing here: the host \
                         dropped the line]\r\n#\r\n";
        assert_eq!(log, expected);

        let mut cast = Vec::new();
        write_cast(&path, "dom0 ttyS0", &mut cast).unwrap();
        let lines: Vec<serde_json::Value> = String::from_utf8(cast)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let header = serde_json::json!({
            "version": 2,
            "width": 80,
            "height": 24,
            "timestamp": 1_700_000_000,
            "title": "dom0 ttyS0",
        });
        assert_eq!(
            lines,
            [
                header,
                serde_json::json!([0.25, "o", "login: "]),
                serde_json::json!([1.5, "o", "ä\u{1b}[0m\u{fffd}"]),
                serde_json::json!([2.0, "m", "bytes may be missing: the host dropped the line"]),
                serde_json::json!([3.25, "o", "#\r\n"]),
            ]
        );
    }

    proptest! {
        #[test]
        fn pieces_decode_to_the_same_text_as_the_whole(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                "\\PC{0,40}".prop_map(String::into_bytes),
            ],
            cuts: Vec<prop::sample::Index>,
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut decoder = Utf8Decoder::default();
            let mut text = String::new();
            for pair in cuts.windows(2) {
                text.push_str(&decoder.decode(&bytes[pair[0]..pair[1]]));
            }
            let rest = String::from_utf8_lossy(&decoder.begun).into_owned();
            prop_assert_eq!(text + &rest, String::from_utf8_lossy(&bytes));
        }
    }
}
