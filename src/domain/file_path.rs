//! Paths of files on datastores: what a path is, which folders it is inside of, and the names that
//! otter never writes. Every path that reaches the host is a [`FilePath`].

use std::fmt;
use std::str::FromStr;

use super::ids::JobId;
use super::names::{HiddenCharacter, hidden_character};

/// The ends of the names of files that belong to machines, in lower case. otter neither deletes nor
/// replaces such a file, because a machine that the host does not list may need it.
const OF_MACHINES: [&str; 5] = [".vmdk", ".vmx", ".vmsd", ".vmsn", ".nvram"];

/// The end of the name of a file whose upload is not complete.
const PART: &str = ".otter-part";

/// The path of a file or a folder below the top folder of its datastore, such as `iso/qubes.iso`.
/// It has at least one segment, and each segment is a name that means nothing else to any host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

/// A place on a datastore as vim25 writes it: `[isos] linux/qubes.iso`, or `[isos]` for the top
/// folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatastorePath {
    /// The name of the datastore.
    pub datastore: String,
    /// `None` means the top folder.
    pub path: Option<FilePath>,
}

/// Why a text is no path. The text of the error is the rest of a sentence whose subject is the
/// path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilePath {
    #[error("is empty")]
    Empty,
    #[error("has {0} bytes; it may have {max}", max = FilePath::MAX_BYTES)]
    TooLong(usize),
    #[error("has a name of {0} bytes; a name may have {max}", max = FilePath::MAX_NAME)]
    LongName(usize),
    #[error("has an empty name: it must not start or end with a slash, nor have two in a row")]
    EmptyName,
    #[error("has the name . or .., and otter follows neither")]
    Relative,
    #[error("has the character {0:?}, which names here must not have")]
    Character(char),
    #[error("has a name that starts or ends with white space")]
    WhiteSpace,
}

/// Why a text is no place on a datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatastorePath {
    #[error("does not start with the name of a datastore in brackets, as in [isos] qubes.iso")]
    NoDatastore,
    #[error("{0}")]
    Path(InvalidFilePath),
}

impl FilePath {
    /// The largest number of bytes of a path.
    pub const MAX_BYTES: usize = 1024;

    /// The largest number of bytes of one name. The file systems of hosts have this limit.
    pub const MAX_NAME: usize = 255;

    /// Parses a path that was decoded once. A `%` that is left is refused, because hosts decode
    /// names, and so are backslashes and brackets, which some hosts read as separators.
    ///
    /// # Errors
    /// [`InvalidFilePath`]
    pub fn parse(text: &str) -> Result<Self, InvalidFilePath> {
        if text.is_empty() {
            return Err(InvalidFilePath::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidFilePath::TooLong(text.len()));
        }
        text.split('/').try_for_each(check_name)?;
        Ok(Self(text.to_owned()))
    }

    /// Parses a path of a folder. An empty text means the top folder, which is `None`. One slash at
    /// the end is allowed, because hosts write the paths of folders with it.
    ///
    /// # Errors
    /// [`InvalidFilePath`]
    pub fn parse_folder(text: &str) -> Result<Option<Self>, InvalidFilePath> {
        match text {
            "" | "/" => Ok(None),
            text => Self::parse(text.strip_suffix('/').unwrap_or(text)).map(Some),
        }
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names in the path, from the top.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The folder that has the file. `None` means the top folder.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(folder, _)| Self(folder.to_owned()))
    }

    /// Whether this path is `folder` or lies below it. Whole names count: `iso-private` is not
    /// inside `iso`.
    ///
    /// # Parameters
    /// - `folder`: `None` means the top folder.
    #[must_use]
    pub fn is_within(&self, folder: Option<&Self>) -> bool {
        folder.is_none_or(|folder| {
            let rest = self.0.strip_prefix(&folder.0);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Whether this path lies below `folder` and is not the folder itself.
    ///
    /// # Parameters
    /// - `folder`: `None` means the top folder.
    #[must_use]
    pub fn is_below(&self, folder: Option<&Self>) -> bool {
        self.is_within(folder) && folder != Some(self)
    }

    /// The file that an upload to this path writes before it is complete. It is in the same folder,
    /// its name has the id of the job, and a long name is cut so that the host accepts it.
    #[must_use]
    pub fn part(&self, job: JobId) -> Self {
        let end = format!(".{job}{PART}");
        let name = self.name();
        let room = Self::MAX_NAME.saturating_sub(end.len());
        let cut = name.floor_char_boundary(room.min(name.len()));
        let folder = self.0.strip_suffix(name).unwrap_or_default();
        Self(format!("{folder}{}{end}", name.get(..cut).unwrap_or_default()))
    }

    /// Whether the file is the part of an upload, which only otter itself writes.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.0.to_ascii_lowercase().ends_with(PART)
    }

    /// Whether the name is that of a disk, a configuration or another file of a machine.
    #[must_use]
    pub fn is_of_machine(&self) -> bool {
        let name = self.name().to_ascii_lowercase();
        OF_MACHINES.iter().any(|end| name.ends_with(end))
    }
}

impl DatastorePath {
    /// Whether the place is inside of this one, or is this one.
    ///
    /// # Parameters
    /// - `path`: `None` means the top folder.
    #[must_use]
    pub fn contains(&self, datastore: &str, path: Option<&FilePath>) -> bool {
        if self.datastore != datastore {
            return false;
        }
        match (path, &self.path) {
            (Some(path), folder) => path.is_within(folder.as_ref()),
            (None, folder) => folder.is_none(),
        }
    }

    /// The folder of a place that a host wrote, such as the path of a machine's configuration.
    /// `None` if the text names no place, or if the file is in the top folder.
    ///
    /// Unlike [`FilePath::parse`], it accepts every name, because the host has the folder already.
    #[must_use]
    pub fn folder_of_host_path(text: &str) -> Option<(&str, &str)> {
        let (datastore, path) = split(text)?;
        let (folder, _) = path.rsplit_once('/')?;
        Some((datastore, folder))
    }
}

/// Checks one name of a path.
fn check_name(name: &str) -> Result<(), InvalidFilePath> {
    match name {
        "" => return Err(InvalidFilePath::EmptyName),
        "." | ".." => return Err(InvalidFilePath::Relative),
        _ => {}
    }
    if name.len() > FilePath::MAX_NAME {
        return Err(InvalidFilePath::LongName(name.len()));
    }
    let is_ambiguous = |character: char| {
        character.is_control()
            || matches!(character, '\\' | '[' | ']' | '%' | '\u{2028}' | '\u{2029}')
    };
    if let Some(character) = name.chars().find(|character| is_ambiguous(*character)) {
        return Err(InvalidFilePath::Character(character));
    }
    if name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace) {
        return Err(InvalidFilePath::WhiteSpace);
    }
    match hidden_character(name) {
        Some(HiddenCharacter::Control(character)) => Err(InvalidFilePath::Character(character)),
        // Some scripts need invisible characters to join letters or to keep them apart.
        Some(HiddenCharacter::Invisible(_) | HiddenCharacter::Surrounding(_)) | None => Ok(()),
    }
}

/// The name of the datastore and the path in a place that vim25 writes. `None` if the text has no
/// brackets at its start.
fn split(text: &str) -> Option<(&str, &str)> {
    let (datastore, path) = text.strip_prefix('[')?.split_once(']')?;
    (!datastore.is_empty()).then(|| (datastore, path.strip_prefix(' ').unwrap_or(path)))
}

impl fmt::Display for FilePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for FilePath {
    type Err = InvalidFilePath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for DatastorePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}]", self.datastore)?;
        match &self.path {
            Some(path) => write!(formatter, " {path}"),
            None => Ok(()),
        }
    }
}

impl FromStr for DatastorePath {
    type Err = InvalidDatastorePath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (datastore, path) = split(text).ok_or(InvalidDatastorePath::NoDatastore)?;
        let path = FilePath::parse_folder(path).map_err(InvalidDatastorePath::Path)?;
        Ok(Self { datastore: datastore.to_owned(), path })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::parse(text).unwrap()
    }

    #[test]
    fn a_path_has_only_plain_names() {
        use InvalidFilePath::{Character, Empty, EmptyName, LongName, Relative, WhiteSpace};
        for text in [
            "qubes.iso",
            "iso/qubes 4.2 (x86_64).iso",
            "iso/…/a..b/...",
            "образы/кубы.iso",
            "キューブ/四.iso",
            "تصاویر/می\u{200c}شود.iso",
            ".hidden",
            "a&b=c?d#e+f;g'h\"i",
        ] {
            assert_eq!(FilePath::parse(text).map(|path| path.to_string()), Ok(text.to_owned()));
        }
        for (text, error) in [
            ("", Empty),
            ("/", EmptyName),
            ("/etc/passwd", EmptyName),
            ("iso/", EmptyName),
            ("iso//a", EmptyName),
            ("..", Relative),
            ("iso/../vm/vm.vmx", Relative),
            ("iso/./a", Relative),
            ("iso/%2e%2e/a", Character('%')),
            ("iso\\..\\a", Character('\\')),
            ("[isos] a", Character('[')),
            ("a]", Character(']')),
            ("a\0b", Character('\0')),
            ("a\nb", Character('\n')),
            ("a\u{7f}", Character('\u{7f}')),
            ("a\u{85}b", Character('\u{85}')),
            ("a\u{2028}b", Character('\u{2028}')),
            ("a\u{202e}osi.exe", Character('\u{202e}')),
            (" a", WhiteSpace),
            ("iso /a", WhiteSpace),
            ("a\u{a0}", WhiteSpace),
        ] {
            assert_eq!(FilePath::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(FilePath::parse(&"a".repeat(300)), Err(LongName(300)));
        assert_eq!(FilePath::parse(&"語".repeat(100)), Err(LongName(300)), "bytes count");
        assert!(FilePath::parse(&"a".repeat(255)).is_ok());
        let long = vec!["a".repeat(200); 6].join("/");
        assert_eq!(FilePath::parse(&long), Err(InvalidFilePath::TooLong(1205)));
    }

    #[test]
    fn a_folder_contains_whole_names() {
        let iso = path("iso");
        for (text, within) in [
            ("iso", true),
            ("iso/a", true),
            ("iso/a/b", true),
            ("iso-private", false),
            ("iso-private/a", false),
            ("is", false),
            ("ISO/a", false),
            ("a/iso", false),
        ] {
            assert_eq!(path(text).is_within(Some(&iso)), within, "{text}");
            assert_eq!(path(text).is_below(Some(&iso)), within && text != "iso", "{text}");
            assert!(path(text).is_below(None));
        }
        let root: DatastorePath = "[isos] iso".parse().unwrap();
        assert!(root.contains("isos", Some(&iso)));
        assert!(!root.contains("isos", None));
        assert!(!root.contains("other", Some(&iso)));
        let whole: DatastorePath = "[isos]".parse().unwrap();
        assert!(whole.contains("isos", None) && whole.contains("isos", Some(&iso)));
    }

    #[test]
    fn a_place_is_read_as_vim25_writes_it() {
        for (text, datastore, within) in [
            ("[isos] qubes.iso", "isos", Some("qubes.iso")),
            ("[isos] linux/qubes 4.iso", "isos", Some("linux/qubes 4.iso")),
            ("[my isos]a", "my isos", Some("a")),
            ("[isos]", "isos", None),
            ("[isos] ", "isos", None),
            ("[isos] iso/", "isos", Some("iso")),
        ] {
            let place: DatastorePath = text.parse().unwrap();
            assert_eq!(place.datastore, datastore);
            assert_eq!(place.path.as_ref().map(FilePath::as_str), within, "{text}");
        }
        assert_eq!("[isos] a/b".parse::<DatastorePath>().unwrap().to_string(), "[isos] a/b");
        assert_eq!("[isos] ".parse::<DatastorePath>().unwrap().to_string(), "[isos]");
        for text in ["", "qubes.iso", "[]", "[] a", "[isos", "[isos] ../a", "[isos] [b] c"] {
            assert!(text.parse::<DatastorePath>().is_err(), "{text}");
        }
        let folder = DatastorePath::folder_of_host_path;
        assert_eq!(folder("[ds] vm/50%25/vm.vmx"), Some(("ds", "vm/50%25")));
        assert_eq!(folder("[ds] vm.vmx"), None);
        assert_eq!(folder("/vmfs/volumes/ds/vm/vm.vmx"), None);
    }

    #[test]
    fn the_files_of_machines_are_known_by_their_ends() {
        for (text, of_machine) in [
            ("vm/vm.vmx", true),
            ("vm/disk-flat.VMDK", true),
            ("a.nvram", true),
            ("vm.vmx/a.iso", false),
            ("vmdk", false),
            ("a.vmdk.txt", false),
        ] {
            assert_eq!(path(text).is_of_machine(), of_machine, "{text}");
        }
    }

    /// Texts with many of the characters that mean something to a host, and texts of any kind.
    const HOSTILE: &str = "(?s)[a.%/\\\\\\[\\] é語\u{202e}\0]{0,12}|.{0,24}";

    proptest! {
        /// Whatever a caller writes, a path that is accepted stays inside of its datastore, is the
        /// same after the host decoded it, and survives its way through vim25.
        #[test]
        fn an_accepted_path_means_the_same_everywhere(text in HOSTILE) {
            if let Ok(parsed) = FilePath::parse(&text) {
                prop_assert_eq!(parsed.as_str(), &text);
                prop_assert!(parsed.names().all(|name| !matches!(name, "" | "." | "..")));
                prop_assert!(!text.contains(['%', '\\', '[', ']', '\0', '\n']));
                let place = DatastorePath { datastore: "a b".to_owned(), path: Some(parsed) };
                prop_assert_eq!(place.to_string().parse::<DatastorePath>(), Ok(place));
            }
        }

        /// A path is below exactly the folders that its names begin with.
        #[test]
        fn only_the_own_folders_contain_a_path(
            names in prop::collection::vec("[ab]{1,2}", 1..4),
            folder in prop::collection::vec("[ab]{1,2}", 1..4),
        ) {
            let inside = path(&names.join("/"));
            let within = names.starts_with(&folder);
            let folder = path(&folder.join("/"));
            prop_assert_eq!(inside.is_within(Some(&folder)), within);
        }

        /// The part of an upload is a valid path in the same folder, and two jobs never share one.
        #[test]
        fn a_part_is_next_to_its_file(
            folder in prop::option::of("[a-c]{1,3}(/[a-c]{1,3})?"),
            name in "[a-c語][a-c. 語]{0,83}[a-c語]",
            first: u128,
            second: u128,
        ) {
            let text = folder.map_or_else(|| name.clone(), |folder| format!("{folder}/{name}"));
            let Ok(target) = FilePath::parse(&text) else { return Ok(()) };
            let part = |job: u128| target.part(JobId::new(Uuid::from_u128(job)));
            let one = part(first);
            prop_assert_eq!(FilePath::parse(one.as_str()), Ok(one.clone()));
            prop_assert_eq!(one.parent(), target.parent());
            prop_assert!(one.is_part() && !one.name().starts_with('.'));
            prop_assert_eq!(one == part(second), first == second);
        }
    }
}
