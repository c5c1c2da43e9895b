//! Tests of the configuration: every source of a setting, and every problem that can be reported.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;
use tempfile::NamedTempFile;

use super::*;
use crate::domain::answers::AnswerRules;
use crate::domain::lease::Readiness;
use crate::domain::pool::{Pool, RunningLimits, ScreenAccess, SerialAccess};
use crate::domain::recording::{PortChoice, Record};
use crate::domain::verify::Verify;

const ANNOTATED: &str = include_str!("../../config/otter.toml");

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn environment(variables: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn load(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, ConfigError> {
    Config::load(Some(file(text).path()), &environment(variables), flags)
}

fn loaded(text: &str) -> Config {
    load(text, &[], &Flags::default()).unwrap()
}

/// The problems of a configuration file. Each is written as `line: key: message`.
fn problems(text: &str) -> Vec<String> {
    messages(&load(text, &[], &Flags::default()).unwrap_err())
}

fn messages(error: &ConfigError) -> Vec<String> {
    let message = |problem: &ConfigProblem| {
        let line = problem.line.map(|line| format!("{line}: ")).unwrap_or_default();
        format!("{line}{}: {}", problem.at, problem.message)
    };
    error.problems.iter().map(message).collect()
}

fn password(config: &Config) -> Option<&str> {
    config.esx.password.as_ref().map(ExposeSecret::expose_secret)
}

#[test]
fn without_any_source_the_defaults_apply() {
    let config = Config::load(None, &BTreeMap::new(), &Flags::default()).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.state.directory(), Path::new("/var/lib/otter"));
}

#[test]
fn the_annotated_file_contains_the_defaults() {
    assert_eq!(format!("{:?}", loaded(ANNOTATED)), format!("{:?}", Config::default()));
}

#[test]
fn the_annotated_file_has_every_key_and_no_other() {
    let known = file::read("", Path::new(""), &mut ConfigDraft::default()).known;
    // The keys of pools are left out, because otter knows them only for pools that are in the file.
    let keys = keys_in_file().into_iter().filter(|key| !key.starts_with("pools."));
    assert_eq!(keys.collect::<BTreeSet<_>>(), known.iter().cloned().collect());
}

#[test]
fn the_commented_keys_of_the_annotated_file_are_valid() {
    let password = file("secret\n");
    let text: String = ANNOTATED
        .lines()
        // `password` is left out, because only one of the two ways to give the password may be
        // used.
        .filter(|line| !line.starts_with("# password ="))
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if key_in(rest).is_some() || rest.starts_with('[') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect::<String>()
        .replace("/etc/otter/password", &password.path().display().to_string());
    let config = loaded(&text);
    assert!(config.esx.host().is_ok());
    assert_eq!(config.esx.headers.len(), 1);
}

/// The keys in the annotated file `config/otter.toml`, including those that are commented out.
fn keys_in_file() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in ANNOTATED.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some(key) = key_in(line)
            && section != "esx.headers"
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

fn key_in(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    key.chars()
        .all(|character| character.is_ascii_lowercase() || "_-".contains(character))
        .then_some(key)
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let text = "[http]\nlisten = '127.0.0.1:1'\n[state]\ndir = '/one'\n[log]\nlevel = 'warn'\n\
                [esx]\nurl = 'https://one'\nusername = 'one'\npassword = 'one'\nverify = true";
    let config = loaded(text);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:1");
    assert_eq!(config.state.directory(), Path::new("/one"));
    let variables = [
        ("OTTER_LISTEN", "127.0.0.1:2"),
        ("OTTER_STATE_DIR", "/two"),
        ("OTTER_ESX_URL", "https://two:444/"),
        ("OTTER_ESX_USERNAME", "two"),
        ("OTTER_ESX_PASSWORD", "two"),
        ("OTTER_ESX_VERIFY", "false"),
    ];
    let config = load(text, &variables, &Flags::default()).unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.state.directory(), Path::new("/two"));
    assert_eq!(config.esx.url.as_deref(), Some("https://two:444/sdk"));
    assert_eq!(config.esx.username.as_deref(), Some("two"));
    assert_eq!(password(&config), Some("two"));
    assert_eq!(config.esx.verify, Verify::Off);
    let flags = Flags {
        listen: Some("unix:/run/otter.sock".to_owned()),
        state_dir: Some("/three".to_owned()),
        log_level: Some("debug".to_owned()),
        log_format: Some("json".to_owned()),
    };
    let config = load(text, &variables, &flags).unwrap();
    assert_eq!(config.http.listen, Listen::Unix(PathBuf::from("/run/otter.sock")));
    assert_eq!(config.state.directory(), Path::new("/three"));
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let config =
        load("", &[("OTTER_LISTEN", ""), ("OTTER_ESX_PASSWORD", "")], &Flags::default()).unwrap();
    assert_eq!(config.http.listen, Listen::default());
    assert_eq!(password(&config), None);
}

#[test]
fn a_password_can_come_from_a_file() {
    for (content, expected) in
        [("secret", "secret"), ("secret\n", "secret"), (" se cret\r\n", " se cret")]
    {
        let secret = file(content);
        let path = secret.path().display().to_string();
        let config = loaded(&format!("[esx]\npassword_file = {path:?}"));
        assert_eq!(password(&config), Some(expected));
        let config = load(
            "[esx]\npassword = 'other'",
            &[("OTTER_ESX_PASSWORD_FILE", &path)],
            &Flags::default(),
        );
        assert_eq!(password(&config.unwrap()), Some(expected));
    }
}

#[test]
fn an_invalid_password_file_is_refused() {
    assert_eq!(
        problems("[esx]\npassword_file = '/nowhere/password'"),
        ["esx.password_file: there is no such file"]
    );
    for (content, message) in [("\n", "is empty"), ("", "is empty"), ("a\nb\n", "in one line")] {
        let secret = file(content);
        let error = load(
            "",
            &[("OTTER_ESX_PASSWORD_FILE", &secret.path().display().to_string())],
            &Flags::default(),
        );
        let messages = messages(&error.unwrap_err());
        assert!(messages[0].starts_with("OTTER_ESX_PASSWORD_FILE: "), "{messages:?}");
        assert!(messages[0].contains(message), "{messages:?}");
    }
}

#[test]
fn two_passwords_are_refused() {
    assert_eq!(
        problems("[esx]\npassword = 'a'\npassword_file = '/b'"),
        ["2: esx.password: esx.password_file is also set: remove one of them"]
    );
    let both = [
        ("OTTER_ESX_PASSWORD", "a"),
        ("OTTER_ESX_PASSWORD_FILE", file("b").path().to_str().unwrap()),
    ]
    .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let error = Config::load(None, &BTreeMap::from(both), &Flags::default()).unwrap_err();
    assert_eq!(
        messages(&error)[0],
        "OTTER_ESX_PASSWORD: OTTER_ESX_PASSWORD_FILE is also set: remove one of them"
    );
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest() {
    assert_eq!(
        problems(
            "[http]\nlisten_on = '127.0.0.1:1'\n[jobs.deadlines]\npwoer = '1m'\n[esxi]\nurl = 'x'"
        ),
        [
            "2: http.listen_on: there is no such key; did you mean http.listen?",
            "4: jobs.deadlines.pwoer: there is no such key; did you mean jobs.deadlines.power?",
            "5: esxi: there is no such key; did you mean esx?",
        ]
    );
}

#[test]
fn a_misspelt_variable_of_the_host_is_an_error() {
    let variables = [("OTTER_ESX_PASSWORDD", "secret"), ("OTTER_PYTHON", "python3")];
    let messages = messages(&load("", &variables, &Flags::default()).unwrap_err());
    let [message] = messages.try_into().unwrap();
    assert!(message.contains("OTTER_ESX_PASSWORDD: nothing reads this variable"), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn a_wrong_type_is_reported_with_the_expected_one() {
    for (text, expected) in [
        ("[http]\nlisten = 8080", "2: http.listen: expected a string in quotes, not an integer"),
        (
            "[http]\nmax_waits = 'many'",
            "2: http.max_waits: expected a number from 1 to 4294967295, not a string",
        ),
        ("[http]\nmax_waits = 0", "2: http.max_waits: expected a number from 1 to 4294967295"),
        (
            "[http]\nmax_wait = true",
            "2: http.max_wait: expected a duration, such as \"30s\" or \"1h30m\", not true or \
             false",
        ),
        (
            "[http]\nsocket_mode = '0o660'",
            "2: http.socket_mode: write three octal digits after a 0, such as \"0660\" or \"0600\"",
        ),
        (
            "[http]\nsocket_mode = 660",
            "2: http.socket_mode: expected a string in quotes, not an integer",
        ),
        (
            "[http]\nsocket_mode = '0060'",
            "2: http.socket_mode: otter itself must be able to read and write: the first digit is \
             6 or 7, as in \"0660\"",
        ),
        (
            "[http]\nsocket_group = 'otter:otter'",
            "2: http.socket_group: write the name of a group, or its number, such as \"otter\"",
        ),
        (
            "[http]\nsocket_mod = '0660'",
            "2: http.socket_mod: there is no such key; did you mean http.socket_mode?",
        ),
        ("[http]\nmax_wait = '0s'", "2: http.max_wait: the duration must not be zero"),
        (
            "[esx]\nsettle = '5x'",
            "2: esx.settle: \"x\" is not a unit of time: the units are d, h, m and s",
        ),
        (
            "[esx]\nverify = 1",
            "2: esx.verify: expected true, false, \"ca:<file>\" or \"sha256:<fingerprint>\", not \
             an integer",
        ),
        (
            "[esx]\nverify = 'yes'",
            "2: esx.verify: expected true, false, ca:<file> or sha256:<fingerprint>",
        ),
        ("[esx]\nproxy = 3128", "2: esx.proxy: expected a string in quotes, not an integer"),
        (
            "[esx]\nproxy = 'proxy:3128'",
            "2: esx.proxy: proxy:3128 is not the address of an HTTP proxy: it does not begin with \
             http://; write http://<host>:<port> or http://<user>:<password>@<host>:<port>",
        ),
        ("[esx.headers]\nx = 1", "2: esx.headers.x: expected a string in quotes, not an integer"),
        ("[esx.headers]\n'a b' = 'x'", "2: esx.headers.a b: this cannot be the name of a header"),
        (
            "[machines]\nprotected = 'a'",
            "2: machines.protected: expected a list of strings, not a string",
        ),
        (
            "[machines]\nprotected = ['a', 1]",
            "2: machines.protected: expected a list of strings, but one item is an integer",
        ),
        (
            "[machines]\nprotected = ['golden-*', 'mac:00:50']",
            "2: machines.protected: \"mac:00:50\": not a hardware address: write six octets of \
             hexadecimal digits, such as 00:50:56:ab:cd:ef",
        ),
        (
            "[machines]\nprotected = ['uuid:16']",
            "2: machines.protected: \"uuid:16\": not a UUID: write 32 hexadecimal digits, such as \
             uuid:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42",
        ),
        (
            "[pools.a]\nmachines = ['uid:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42']",
            "2: pools.a.machines: \"uid:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42\": there is no prefix \
             uid:; did you mean uuid:?",
        ),
        (
            "[http]\ntrusted_proxies = ['10.0.0.0/8', 'proxy']",
            "2: http.trusted_proxies: \"proxy\": write an IP network, such as 10.0.0.0/8 or \
             fd00::/8, a single address, or unix for a proxy on otter's Unix socket",
        ),
        (
            "[http]\nbase_path = 'otter'",
            "2: http.base_path: write a path of letters, digits, \"-\", \"_\", \".\" and \"~\" \
             that begins with a slash, such as \"/otter\"",
        ),
        (
            "[http]\nbase_path = '/v1'",
            "2: http.base_path: /v1 is a path of otter itself; choose another, such as \"/otter\"",
        ),
        ("[jobs.deadlines]\npower = '8d'", "2: jobs.deadlines.power: a deadline is from 1s to 7d"),
        ("jobs = 1", "1: jobs: expected a section [jobs], not an integer"),
        ("[log]\nformat = 'xml'", "2: log.format: expected auto, human or json"),
        ("[state]\ndir = ''", "2: state.dir: it must not be empty"),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn all_problems_are_reported_together() {
    let text = "[http]\nlisten = 'here'\nbody_limit = -1\n[esx]\nurl = 'esx'\ntypo = 1";
    let flags = Flags { log_level: Some("loud".to_owned()), ..Flags::default() };
    let error = load(text, &[("OTTER_ESX_VERIFY", "maybe")], &flags).unwrap_err();
    let at: Vec<_> = error.problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(
        at,
        [
            "esx.url",
            "esx.typo",
            "http.listen",
            "http.body_limit",
            "OTTER_ESX_VERIFY",
            "--log-level"
        ]
    );
    assert!(error.to_string().starts_with("the configuration cannot be used\n  "), "{error}");
}

#[test]
fn a_syntax_error_is_reported_with_its_line() {
    let messages = problems("[http]\nlisten = \n");
    assert!(messages[0].starts_with("2: : not TOML: "), "{messages:?}");
    let twice = problems("[http]\nmax_waits = 1\nmax_waits = 2\n");
    assert!(twice[0].starts_with("3: : not TOML: duplicate key"), "{twice:?}");
}

#[test]
fn the_error_for_an_unreadable_file_names_it() {
    let load = |path: &Path| Config::load(Some(path), &BTreeMap::new(), &Flags::default());
    let error = load(Path::new("/nowhere/otter.toml")).unwrap_err();
    assert_eq!(error.problems[0].to_string(), "/nowhere/otter.toml: there is no such file");
    let error = load(Path::new("/")).unwrap_err();
    assert!(error.to_string().contains("/: the file cannot be read"), "{error}");
    let mut binary = NamedTempFile::new().unwrap();
    binary.write_all(&[0xff, 0xfe]).unwrap();
    let error = load(binary.path()).unwrap_err();
    assert!(error.to_string().ends_with("the file is not text in UTF-8"), "{error}");
}

#[test]
fn secrets_are_not_in_messages_or_debug_output() {
    let text = "[esx]\npassword = 'hunter2'\nproxy = 'http://me:hunter2@proxy:1'\n\
                [esx.headers]\nauthorization = 'hunter2'";
    let config = loaded(text);
    assert!(!format!("{config:?}").contains("hunter2"));
    for text in [
        "[esx]\npassword = 'hunter2'\npassword_file = '/x'",
        "[esx]\npassword = hunter2",
        "[esx]\npassword = ['hunter2']",
        "[esx.headers]\nauthorization = \"hunter2\\n\"",
        "[esx]\nurl = 'https://root:hunter2@esx'",
        "[esx]\nproxy = 'https://me:hunter2@proxy:1'",
        "[esx]\nproxy = 'http://me:hunter2@proxy:x'",
    ] {
        let error = load(text, &[], &Flags::default()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn missing_settings_of_a_login_are_reported() {
    let error = loaded("[esx]\nusername = 'root'").esx.host().unwrap_err();
    let at: Vec<_> = error.problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(at, ["esx.url", "esx.password"]);
    let host =
        loaded("[esx]\nurl = 'https://esx'\nusername = 'root'\npassword = 'x'").esx.host().unwrap();
    assert_eq!((host.url.as_str(), host.username.as_str()), ("https://esx/sdk", "root"));
}

#[test]
fn addresses_to_listen_on() {
    for text in ["127.0.0.1:8080", "[::1]:0", "0.0.0.0:80", "unix:/run/otter/otter.sock"] {
        assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "8080",
        ":8080",
        "localhost",
        "localhost:99999",
        "otter.lab:8080",
        "127.0.0.1",
        "127.0.0.1:99999",
        "unix:",
        "unix:otter.sock",
    ] {
        assert!(text.parse::<Listen>().is_err(), "{text}");
    }
}

#[test]
fn log_levels() {
    for text in ["off", "info", "DEBUG", "info,otter::esx=debug", "otter=trace"] {
        assert_eq!(values::log_level(text).as_deref(), Ok(text));
    }
    for text in ["", "loud", "inof", "otter=loud"] {
        assert!(values::log_level(text).is_err(), "{text}");
    }
}

#[test]
fn a_number_without_a_unit_is_seconds() {
    let config = loaded("[http]\nmax_wait = 45\n[esx]\nsettle = '0s'");
    assert_eq!(
        (config.http.max_wait, config.esx.settle),
        (Duration::from_secs(45), Duration::ZERO)
    );
}

proptest! {
    #[test]
    fn no_file_makes_read_panic(
        text in "\\PC{0,60}|\
                 (\\[(esx|http|jobs)\\]\n)?([a-z_]{1,12} = ('x'|1|\\[\\]|-5|1.5)\n){0,3}",
    ) {
        let mut draft = ConfigDraft::default();
        file::read(&text, Path::new("otter.toml"), &mut draft);
    }
}

#[test]
fn pools_are_read_and_their_problems_are_located() {
    let config = loaded(
        r#"[pools.qubes]
machines = ["qubes-*", "17"]
max_ttl = "2h"
may_keep_power = true
screens = "public"
serial = "always"
release = { power = "keep", snapshot = "base" }
record = { screen = true, serial = ["ttyS0"] }
[pools.qubes.prepare]
snapshot = "base/kickstart"
power = "on"
until = "ip"
cidr = "10.0.0.0/8"
settle = "90s"
[pools.plain]
"#,
    );
    let pool = &config.pools["qubes"];
    let machines: Vec<String> = pool.machines.iter().map(ToString::to_string).collect();
    assert_eq!(machines, ["qubes-*", "17"]);
    let prepare = pool.prepare.as_ref().unwrap();
    assert_eq!(
        (prepare.until.clone(), prepare.settle),
        (Some(Readiness::Address), Some(Duration::from_secs(90)))
    );
    assert_eq!(prepare.cidr, Some("10.0.0.0/8".parse().unwrap()));
    assert_eq!(
        pool.record,
        Some(Record { screen: true, serial: vec![PortChoice::parse("ttyS0").unwrap()] })
    );
    assert!(pool.may_keep_power && pool.release.as_ref().unwrap().keep_power);
    assert_eq!((pool.screens, pool.serial), (ScreenAccess::Public, SerialAccess::Always));
    assert_eq!(config.pools["plain"], Pool::default());
    let config = loaded("[pools.a]\nprepare = { until = \"screen:Log In, please\" }\n");
    let until = config.pools["a"].prepare.as_ref().unwrap().until.as_ref().unwrap();
    assert_eq!(until.to_string(), "screen:Log In, please");
    let config = loaded(
        "[esx]\nmax_running = 20\n[pools.qubes]\nmax_running = 4\nmax_memory_bytes = 34359738368\n",
    );
    assert_eq!(config.esx.limits.max_running, Some(20));
    assert_eq!(
        config.pools["qubes"].limits,
        RunningLimits { max_running: Some(4), max_memory_bytes: Some(32 << 30) }
    );
    for (wrong, words) in [
        ("[esx]\nmax_running = 0\n", "expected a number from 1"),
        ("[esx]\nmax_memory_bytes = \"64 GiB\"\n", "expected a number from 1"),
        ("[pools.qubes]\nmax_running = -1\n", "expected a number from 1"),
        ("[pools.qubes]\nscreens = \"all\"\n", "expected lease or public"),
        ("[pools.qubes.record]\nserial = [\"com1\"]\n", "is not *, ttyS with a number"),
        ("[pools.qubes]\nserial = \"never\"\n", "expected lease or always"),
        ("[serial]\nlisten = \"13370\"\n", "expected an address and a port"),
        ("[serial]\nallowed_peers = [\"host\"]\n", "write an IP network"),
        ("[serial]\nlog_bytes = 1000\n", "expected a number from 1048576"),
        ("[serial]\ntty = \"ttyS\"\n", "expected a path"),
        ("[artifacts]\nmax_total = 0\n", "expected a number from 1"),
        ("[files]\nroots = [\"iso\"]\n", "the name of a datastore in brackets"),
        ("[files]\nroots = [\"[isos] ../vm\"]\n", "otter follows neither"),
        ("[screens]\nmax_open = 0\n", "expected a number from 1"),
        ("[screens]\nocr_command = []\n", "expected the name of a program"),
        ("[pools.qubes]\nmax_memory = 1\n", "did you mean pools.qubes.max_memory_bytes?"),
    ] {
        let messages = problems(wrong);
        assert!(messages.iter().any(|line| line.contains(words)), "{wrong}: {messages:?}");
    }
    let messages = problems("[pools.qubes]\nmachine = []\nprepare = { power = \"up\" }\n");
    assert!(messages.iter().any(|line| line.contains("pools.qubes.machine")), "{messages:?}");
    assert!(messages.iter().any(|line| line.contains("pools.qubes.prepare.power")), "{messages:?}");
    for (prepare, message) in [
        ("until = \"ip\", cidr = \"ten\"", "cidr: write an IP network"),
        ("until = \"screen: \"", "until: the text has no text after the colon"),
        ("until = \"tool\"", "until: the text is not one of power_state:on, ip, tools, screen:"),
        ("until = \"tools\", cidr = \"10.0.0.0/8\"", "cidr: it is the network of the address"),
        ("cidr = \"10.0.0.0/8\"", "set until to ip"),
        ("until = \"ip\", cdir = \"10.0.0.0/8\"", "did you mean pools.qubes.prepare.cidr?"),
    ] {
        let messages = problems(&format!("[pools.qubes]\nprepare = {{ {prepare} }}\n"));
        assert!(
            messages.len() == 1 && messages[0].contains("pools.qubes.prepare."),
            "{messages:?}"
        );
        assert!(messages[0].contains(message), "{messages:?}");
    }
}

#[test]
fn answers_are_read_and_their_problems_are_located() {
    let config = loaded(
        r#"[answers]
"msg.uuid.altered" = "button.uuid.copiedTheVM"
[pools.qubes]
answers = { "msg.serial.file.open" = "Append new content" }
"#,
    );
    let rules = |rules: &AnswerRules| format!("{:?}", rules.0);
    assert_eq!(rules(&config.answers), r#"{"msg.uuid.altered": "button.uuid.copiedTheVM"}"#);
    let pool = &config.pools["qubes"];
    assert_eq!(rules(&pool.answers), r#"{"msg.serial.file.open": "Append new content"}"#);
    for (text, at, message) in [
        ("[answers]\n\"msg.a\" = \"\"\n", "2: answers.msg.a: ", "cannot be the label"),
        ("[answers]\n\"msg.a\" = \" b\"\n", "2: answers.msg.a: ", "cannot be the label"),
        (
            "[answers]\n\"msg.a\" = 4\n",
            "2: answers.msg.a: ",
            "not an integer; write both in quotes",
        ),
        ("[answers]\nmsg.a = \"b\"\n", "2: answers.msg: ", "write both in quotes, as in \"msg."),
        ("[answers]\n\"\" = \"b\"\n", "2: answers.: ", "cannot be the id of a message"),
        ("[answers]\n\"msg a\" = \"b\"\n", "2: answers.msg a: ", "cannot be the id of a message"),
        ("answers = 4\n", "1: answers: ", "expected a section [answers]"),
        ("[answer]\n\"msg.a\" = \"b\"\n", "1: answer: ", "did you mean answers?"),
        (
            "[pools.qubes]\nanswers = { \"msg.a\" = \"\" }\n",
            "2: pools.qubes.answers.msg.a: ",
            "cannot be the label",
        ),
        ("[leases]\nquestion_grace = 0\n", "2: leases.question_grace: ", "must not be zero"),
    ] {
        let messages = problems(text);
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].starts_with(at) && messages[0].contains(message), "{messages:?}");
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_or_ignored_with_a_warning() {
    let broken = |text: &str| OsString::from_vec([text.as_bytes(), b"\xff"].concat());
    let load = |name: OsString, value: OsString| {
        Config::load(None, &BTreeMap::from([(name, value)]), &Flags::default())
    };
    let refused = load("OTTER_STATE_DIR".into(), broken("/srv/")).unwrap_err();
    assert_eq!(refused.problems.len(), 1);
    assert_eq!(refused.problems[0].to_string(), "OTTER_STATE_DIR: its value is not UTF-8");
    for (name, value) in [(broken("OTTER_"), "1".into()), ("OTTER_ODD".into(), broken(""))] {
        let config = load(name, value).unwrap();
        assert!(config.warnings[0].contains("not UTF-8"), "{:?}", config.warnings);
    }
    assert!(load("HOME".into(), broken("/")).unwrap().warnings.is_empty());
}
