//! `otter doctor`: each failure that it can find, and success with a healthy host. `servers` has
//! the servers that are no host.

mod servers;

use otter::clock::Clock;
use otter::simulator::{
    Disruption, DownMode, Fault, HostdRestart, Scenario, Simulator, SimulatorOptions,
};

use crate::harness::{ConnectProxy, otter_command, record_answer, run_to_exit};
use servers::{TlsServer, raw_server, web_server};

async fn host(scenario: Scenario) -> Simulator {
    let mut options = SimulatorOptions::new(scenario, Clock::system());
    options.on_answer = Some(record_answer);
    Simulator::start(options).await.unwrap()
}

/// An address of this machine where nothing listens.
fn unused_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn lab() -> Simulator {
    host(Scenario::lab().unwrap()).await
}

/// The result of one run of `otter doctor`.
struct DoctorRun {
    code: Option<i32>,
    text: String,
}

impl DoctorRun {
    async fn with_variables(variables: &[(&str, &str)]) -> Self {
        let mut command = otter_command(&["doctor"]);
        command.env("OTTER_ESX_USERNAME", "root").env("OTTER_ESX_PASSWORD", "otter");
        command.envs(variables.iter().copied());
        let (code, text) = run_to_exit(command).await;
        assert!(!text.contains("hunter2"), "{text}");
        Self { code, text }
    }

    /// Runs `otter doctor` for this host, with the fingerprint pinned and these variables.
    async fn for_host(host: &Simulator, more: &[(&str, &str)]) -> Self {
        let (url, pin) = (host.url(), format!("sha256:{}", host.fingerprint()));
        let mut variables =
            vec![("OTTER_ESX_URL", url.as_str()), ("OTTER_ESX_VERIFY", pin.as_str())];
        variables.extend(more);
        Self::with_variables(&variables).await
    }

    /// Asserts that this check is the first that fails, and that its line contains all words.
    /// Returns the line.
    fn assert_fails_at(&self, check: &str, words: &[&str]) -> &str {
        let line = self.text.lines().find(|line| line.starts_with("FAILED")).unwrap_or(&self.text);
        assert_eq!(line.split_whitespace().nth(1), Some(check), "{}", self.text);
        for word in words {
            assert!(line.contains(word), "{word} in {line}");
        }
        assert_eq!(self.code, Some(1));
        line
    }

    fn checks(&self) -> Vec<&str> {
        let lines =
            self.text.lines().filter(|line| line.starts_with("ok ") || line.starts_with("FAILED"));
        lines.filter_map(|line| line.split_whitespace().nth(1)).collect()
    }
}

/// All checks, in order.
const ALL: [&str; 10] = [
    "address",
    "name",
    "connection",
    "tls",
    "api",
    "login",
    "licence",
    "inventory",
    "rights",
    "sessions",
];

#[tokio::test]
async fn a_healthy_host_passes_all_checks() {
    let host = lab().await;
    let run = DoctorRun::for_host(&host, &[]).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_eq!(run.checks(), ALL);
    for expected in [
        &host.fingerprint(),
        "pinned one",
        "VMware ESXi 7.0.3 build-19193900, a standalone host, API 7.0.3.0",
        "accepts the account root",
        "Enterprise Plus",
        "13 machines and 3 datastores",
        "all privileges that otter needs",
        "1 session, 1 of otter",
        "All is well",
    ] {
        assert!(run.text.contains(expected), "{expected} in {}", run.text);
    }
    assert_eq!(host.control().calls("Login"), 1);
    assert_eq!(host.control().sessions(), 0, "doctor logs out");
}

#[tokio::test]
async fn a_configuration_without_a_host_exits_with_78() {
    let (code, text) = run_to_exit(otter_command(&["doctor"])).await;
    assert!(code == Some(78) && text.contains("OTTER_ESX_URL"), "{text}");
}

#[tokio::test]
async fn a_host_name_that_does_not_exist() {
    let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", "https://nonexistent.invalid")]).await;
    run.assert_fails_at("name", &["nonexistent.invalid", "/etc/hosts"]);
}

#[tokio::test]
async fn a_port_where_nothing_listens() {
    let address = unused_address();
    let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &format!("https://{address}"))]).await;
    run.assert_fails_at("connection", &[&address.to_string(), "refused", "hostd"]);
}

/// The checks of a connection through a proxy, up to the check of the proxy.
const THROUGH_PROXY: [&str; 2] = ["address", "proxy"];

#[tokio::test]
async fn a_host_behind_a_proxy_passes_all_checks() {
    let (host, proxy) = (lab().await, ConnectProxy::start().await);
    proxy.set_name("esx.invalid:443", host.url()["https://".len()..].parse().unwrap());
    let through = [("OTTER_ESX_URL", "https://esx.invalid"), ("OTTER_ESX_PROXY", &proxy.url())];
    let run = DoctorRun::for_host(&host, &through).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_eq!(run.checks()[..3], [THROUGH_PROXY.as_slice(), &["tls"]].concat());
    assert!(run.text.contains(&format!("{} connects to esx.invalid:443", proxy.url())));
    assert!(proxy.targets().iter().all(|target| target == "esx.invalid:443"));
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel() {
    let (host, proxy) = (lab().await, ConnectProxy::start().await);
    let url = format!("http://me:hunter2@{}", proxy.address());
    for (refusal, words) in [
        ("407 Proxy Authentication Required", ["407", "http://<user>:<password>@"]),
        ("403 Forbidden", ["403 Forbidden", "CONNECT"]),
        ("502 Bad Gateway", ["502", "cannot reach the host"]),
        ("429 Too Many Requests", ["429", "log of the proxy"]),
    ] {
        proxy.refuse(Some(refusal));
        let run = DoctorRun::for_host(&host, &[("OTTER_ESX_PROXY", &url)]).await;
        run.assert_fails_at("proxy", &words);
        assert_eq!(run.checks(), THROUGH_PROXY, "nothing is sent to the host");
    }
    let nothing = format!("http://{}", unused_address());
    let run = DoctorRun::for_host(&host, &[("OTTER_ESX_PROXY", &nothing)]).await;
    run.assert_fails_at("proxy", &[&nothing, "refused", "OTTER_ESX_PROXY"]);
    let not_a_proxy = format!("http://{}", &host.url()["https://".len()..]);
    let run = DoctorRun::for_host(&host, &[("OTTER_ESX_PROXY", &not_a_proxy)]).await;
    run.assert_fails_at("proxy", &["did not answer like an HTTP proxy"]);
    assert!(host.control().all_calls().is_empty());
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_used_for_the_host() {
    let (host, proxy) = (lab().await, ConnectProxy::start().await);
    let url = proxy.url();
    let variables = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "http_proxy"];
    let variables = variables.map(|name| (name, url.as_str()));
    let run = DoctorRun::for_host(&host, &variables).await;
    assert_eq!((run.code, run.checks()), (Some(0), ALL.to_vec()), "{}", run.text);
    assert!(proxy.targets().is_empty(), "{:?}", proxy.targets());
}

#[tokio::test]
async fn a_wrong_proxy_is_a_problem_of_the_configuration() {
    for (proxy, words) in [
        ("https://me:hunter2@proxy:3128", "without TLS"),
        ("socks5://me:hunter2@proxy:1080", "SOCKS"),
        ("http://me:hunter2@proxy", "its port is missing"),
    ] {
        let run = DoctorRun::with_variables(&[
            ("OTTER_ESX_URL", "https://esx"),
            ("OTTER_ESX_PROXY", proxy),
        ])
        .await;
        assert_eq!(run.code, Some(78), "{}", run.text);
        for part in ["OTTER_ESX_PROXY: ", words, "http://<host>:<port>"] {
            assert!(run.text.contains(part), "{part} in {}", run.text);
        }
    }
    let plain = [("OTTER_ESX_URL", "http://127.0.0.1"), ("OTTER_ESX_PROXY", "http://proxy:1")];
    let run = DoctorRun::with_variables(&plain).await;
    assert!(run.code == Some(78) && run.text.contains("esx.proxy: "), "{}", run.text);
    let misspelt = [("OTTER_ESX_URL", "https://esx"), ("OTTER_ESX_PROXI", "http://proxy:1")];
    let run = DoctorRun::with_variables(&misspelt).await;
    assert!(run.text.contains("did you mean OTTER_ESX_PROXY?"), "{}", run.text);
}

#[tokio::test]
async fn a_certificate_that_is_not_the_pinned_one() {
    let host = lab().await;
    let pin = format!("sha256:{}", "ab".repeat(32));
    let run = DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", &pin)]).await;
    run.assert_fails_at("tls", &[&host.fingerprint(), "OTTER_ESX_VERIFY", "rui.crt"]);
    assert_eq!(run.checks().last(), Some(&"tls"));
    assert!(host.control().all_calls().is_empty(), "no call goes to a host that may be another");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority() {
    let host = lab().await;
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.pem");
    std::fs::write(&other, lab().await.certificate_pem()).unwrap();
    let run =
        DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", &format!("ca:{}", other.display()))])
            .await;
    run.assert_fails_at("tls", &["not accepted", &host.fingerprint()]);
    let own = directory.path().join("own.pem");
    std::fs::write(&own, host.certificate_pem()).unwrap();
    let run =
        DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", &format!("ca:{}", own.display()))]).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
}

#[tokio::test]
async fn a_certificate_that_is_not_checked() {
    let host = lab().await;
    let run = DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", "false")]).await;
    let seen = format!("sha256:{}", host.fingerprint());
    let warning = run.text.lines().find(|line| line.starts_with("warn ")).expect("a warning");
    for part in ["tls", "not checked", &seen, "rui.crt"] {
        assert!(warning.contains(part), "{part} in {warning}");
    }
    assert_eq!(run.checks().len() + 1, ALL.len(), "the later checks run, as in serve");
    assert!(run.code == Some(0) && run.text.ends_with("All is well.\n"), "{}", run.text);
}

#[tokio::test]
async fn a_certificate_that_openssl_made_and_that_is_itself_trusted() {
    let mut scenario = Scenario::lab().unwrap();
    scenario.host.certificate_of_authority = true;
    let host = host(scenario).await;
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own.pem");
    std::fs::write(&own, host.certificate_pem()).unwrap();
    let run =
        DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", &format!("ca:{}", own.display()))]).await;
    assert_eq!(run.code, Some(0), "{}", run.text);
    // The system trusts another certificate only.
    let other = directory.path().join("other.pem");
    std::fs::write(&other, lab().await.certificate_pem()).unwrap();
    let trusted = other.to_str().unwrap();
    let run =
        DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", "true"), ("SSL_CERT_FILE", trusted)])
            .await;
    let pin = format!("esx.verify = \"sha256:{}\"", host.fingerprint());
    let line = run.assert_fails_at("tls", &["self-signed", "ca:<file>", "rui.crt", &pin]);
    assert!(!line.contains("CaUsedAsEndEntity") && !line.contains("UnknownIssuer"), "{line}");
    assert_eq!(host.control().calls("Login"), 1, "the password goes to a trusted host only");
    // The system trusts this certificate.
    let trusted = own.to_str().unwrap();
    let run =
        DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", "true"), ("SSL_CERT_FILE", trusted)])
            .await;
    assert_eq!(run.code, Some(0), "{}", run.text);
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let mut scenario = Scenario::lab().unwrap();
    scenario.host.certificate_names = vec!["esx.lab".to_owned(), "10.0.0.1".to_owned()];
    let host = host(scenario).await;
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own.pem");
    std::fs::write(&own, host.certificate_pem()).unwrap();
    let run =
        DoctorRun::for_host(&host, &[("OTTER_ESX_VERIFY", &format!("ca:{}", own.display()))]).await;
    let names = "it is valid for esx.lab, 10.0.0.1, and not for 127.0.0.1";
    let line = run.assert_fails_at("tls", &[names, "esx.url", "OTTER_ESX_VERIFY"]);
    assert!(!line.contains("DnsName"), "{line}");
}

/// The certificate file of a vCenter differs from that of a host, and the authority of the vCenter
/// is known.
#[tokio::test]
async fn a_vcenter_gets_no_advice_for_the_certificate_file_of_a_host() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.pem");
    std::fs::write(&other, lab().await.certificate_pem()).unwrap();
    let server = TlsServer::of_product("VirtualCenter").await;
    let verify = format!("ca:{}", other.display());
    for verify in [verify.as_str(), "false"] {
        let run = DoctorRun::with_variables(&[
            ("OTTER_ESX_URL", &server.url),
            ("OTTER_ESX_VERIFY", verify),
        ])
        .await;
        let line = run.text.lines().find(|line| line.contains(" tls ")).unwrap();
        assert!(!line.contains("rui.crt") && line.contains("of the vCenter"), "{line}");
        assert!(
            line.contains(&format!("esx.verify = \"sha256:{}\"", server.fingerprint)),
            "{line}"
        );
    }
    let server = TlsServer::of_product("HostAgent").await;
    let run =
        DoctorRun::with_variables(&[("OTTER_ESX_URL", &server.url), ("OTTER_ESX_VERIFY", &verify)])
            .await;
    run.assert_fails_at("tls", &["rui.crt", "on the host"]);
}

#[tokio::test]
async fn a_server_that_speaks_plain_http() {
    let address = web_server(200, "<html>It works!</html>").await;
    let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &format!("https://{address}"))]).await;
    run.assert_fails_at("tls", &["does not speak TLS", "plain HTTP", "esx.url"]);
    // Some web servers close the connection instead of answering the handshake.
    let address = raw_server(|mut client| async move {
        if client.receive().await.starts_with(b"HEAD ") {
            client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &format!("https://{address}"))]).await;
    run.assert_fails_at("tls", &["does not speak TLS", "plain HTTP", "esx.url"]);
}

#[tokio::test]
async fn a_server_that_speaks_another_protocol() {
    let address = raw_server(|mut client| async move {
        client.send(b"SSH-2.0-OpenSSH_9.6\r\n").await;
        client.receive().await;
    })
    .await;
    let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &format!("https://{address}"))]).await;
    let line = run.assert_fails_at("tls", &["does not speak TLS", "the port in esx.url"]);
    assert!(!line.contains("HTTP"), "{line}");
}

/// The server answers like servers of TLS 1.1: with the alert `protocol_version`, with the alert
/// `handshake_failure`, or with a `ServerHello` of its version.
#[tokio::test]
async fn a_server_of_an_old_tls_version() {
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 0x2f, 0]);
    let table: [(&[u8], &str); 3] = [
        (&[0x15, 3, 1, 0, 2, 2, 70], "UserVars.ESXiVPsDisabledProtocols"),
        (&[0x15, 3, 1, 0, 2, 2, 40], "ECDHE"),
        (&hello, "UserVars.ESXiVPsDisabledProtocols"),
    ];
    for (answer, advice) in table {
        let answer = answer.to_vec();
        let address = raw_server(move |mut client| {
            let answer = answer.clone();
            async move {
                client.receive().await;
                client.send(&answer).await;
                client.receive().await;
            }
        })
        .await;
        let url = format!("https://{address}");
        let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &url)]).await;
        run.assert_fails_at("tls", &["does not speak TLS 1.2 or later", "Update the host", advice]);
    }
}

#[tokio::test]
async fn each_failed_handshake_has_its_own_advice() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[esx]\nconnect_timeout = \"1s\"\n").unwrap();
    let closed = raw_server(|mut client| async move {
        client.receive().await;
    })
    .await;
    // Closing a connection with unread bytes resets it.
    let reset = raw_server(|client| async move { client.has_bytes().await }).await;
    let silent =
        raw_server(|mut client| async move { while !client.receive().await.is_empty() {} }).await;
    let denied = raw_server(|mut client| async move {
        client.receive().await;
        client.send(&[0x15, 3, 3, 0, 2, 2, 49]).await;
        client.receive().await;
    })
    .await;
    let mut advice = Vec::new();
    for (address, words) in [
        (closed, ["closed the connection", "restarting", "hostd status"]),
        (reset, ["was reset", "firewall", "does not expect TLS"]),
        (silent, ["did not answer in time", "Restart Management Agents", "esx.url"]),
        (denied, ["\u{201c}access denied\u{201d}", "refuses this client", "esx.url"]),
    ] {
        let mut command = otter_command(&["doctor", "--config", config.to_str().unwrap()]);
        command.env("OTTER_ESX_USERNAME", "root").env("OTTER_ESX_PASSWORD", "otter");
        command.env("OTTER_ESX_URL", format!("https://{address}"));
        let (code, text) = run_to_exit(command).await;
        let run = DoctorRun { code, text };
        let line = run.assert_fails_at("tls", &words).to_owned();
        advice.push(line.split_once(". ").expect("a finding and its advice").1.to_owned());
    }
    advice.sort();
    advice.dedup();
    assert_eq!(advice.len(), 4, "{advice:?}");
}

#[tokio::test]
async fn plain_http_to_a_tls_port() {
    let server = TlsServer::of_product("HostAgent").await;
    let url = server.url.replace("https", "http");
    let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &url)]).await;
    run.assert_fails_at("api", &["speaks TLS, and esx.url is http", "Write https://"]);
}

#[tokio::test]
async fn a_server_that_is_no_host() {
    let starting = "hostd may be starting";
    for (status, words) in [
        (200, "neither an ESX nor a vCenter"),
        (404, "neither an ESX nor a vCenter"),
        (500, "neither an ESX nor a vCenter"),
        (501, "neither an ESX nor a vCenter"),
        (502, "A proxy answers that it does not reach the server"),
        (504, "A proxy answers that it does not reach the server"),
        (401, "[esx.headers]"),
        (302, "to another address"),
        (503, "If it is another web server, correct esx.url"),
    ] {
        let address = web_server(status, "<html>It works!</html>").await;
        let url = format!("http://{address}");
        let run = DoctorRun::with_variables(&[("OTTER_ESX_URL", &url)]).await;
        let line = run.assert_fails_at("api", &[words, "esx.url"]);
        assert_eq!(line.contains(starting), status == 503, "{line}");
    }
}

/// A starting host answers with 404, 500 or 503, like other web servers. Its proxy and its list of
/// versions show that it is a host.
#[tokio::test]
async fn a_host_whose_api_is_not_up_yet() {
    for status in [404, 500, 503] {
        let host = lab().await;
        let answer = Disruption::Answer { status, content_type: "text/html", body: String::new() };
        host.control().disrupt("RetrieveServiceContent", 0, None, answer);
        let run = DoctorRun::for_host(&host, &[]).await;
        run.assert_fails_at("api", &[&status.to_string(), "hostd may be starting"]);
    }
}

#[tokio::test]
async fn a_host_that_accepts_no_login_yet() {
    let host = lab().await;
    let fault = Fault::new("RuntimeFault", "The service is starting.");
    host.control().disrupt_next("Login", Disruption::Fault(fault));
    let run = DoctorRun::for_host(&host, &[]).await;
    let line = run.assert_fails_at("login", &["RuntimeFault", "hostd may be starting"]);
    assert!(line.contains("the account is not the reason"), "{line}");
}

#[tokio::test]
async fn a_host_whose_hostd_is_away() {
    let host = lab().await;
    host.control()
        .restart_hostd(HostdRestart { down: Some(DownMode::Unavailable), drop_running: false });
    DoctorRun::for_host(&host, &[]).await.assert_fails_at("api", &["503", "hostd"]);
}

#[tokio::test]
async fn a_wrong_password() {
    let host = lab().await;
    let run = DoctorRun::for_host(&host, &[("OTTER_ESX_PASSWORD", "hunter2")]).await;
    run.assert_fails_at("login", &["root", "InvalidLogin", "esx.username", "five"]);
    assert_eq!(host.control().calls("Login"), 1, "every failed login counts towards the lock");
}

#[tokio::test]
async fn a_host_that_is_full_of_sessions() {
    let mut scenario = Scenario::lab().unwrap();
    scenario.host.session_limit = 0;
    DoctorRun::for_host(&host(scenario).await, &[])
        .await
        .assert_fails_at("login", &["503", "sessions"]);
}

#[tokio::test]
async fn the_free_licence() {
    let host = lab().await;
    host.control().set_read_only_licence(true);
    let run = DoctorRun::for_host(&host, &[]).await;
    run.assert_fails_at("licence", &["vSphere 7 Hypervisor", "read-only", "license-restricted"]);
    assert_eq!(run.checks(), ALL);
}

#[tokio::test]
async fn an_account_with_read_only_rights() {
    let host = lab().await;
    host.control().set_read_only_account(true);
    let run = DoctorRun::for_host(&host, &[]).await;
    let line = run.assert_fails_at(
        "rights",
        &["13 of 13", "VirtualMachine.Interact.PowerOn", "RevertToSnapshot"],
    );
    assert!(!line.contains("System.View"), "{line}");
}

#[tokio::test]
async fn a_host_that_shows_no_machine() {
    let run = DoctorRun::for_host(&host(Scenario::generated(0)).await, &[]).await;
    run.assert_fails_at("inventory", &["No machine is visible", "System.View"]);
}

#[tokio::test]
async fn an_inventory_that_is_refused() {
    let host = lab().await;
    let fault = Fault::new("NoPermission", "Permission to perform this operation was denied.")
        .with("privilegeId", "System.View");
    host.control().disrupt("CreateContainerView", 0, None, Disruption::Fault(fault));
    DoctorRun::for_host(&host, &[])
        .await
        .assert_fails_at("inventory", &["NoPermission", "System.View", "Permissions"]);
}

#[tokio::test]
async fn unreadable_facts_are_not_guessed() {
    let host = lab().await;
    // The reads after the login are the licence, the machines, the roles, the datastores and the
    // sessions.
    let fault = Fault::new("NoPermission", "Permission to perform this operation was denied.");
    host.control().disrupt("RetrievePropertiesEx", 0, Some(1), Disruption::Fault(fault.clone()));
    host.control().disrupt("RetrievePropertiesEx", 2, None, Disruption::Fault(fault));
    let run = DoctorRun::for_host(&host, &[]).await;
    for expected in ["licence cannot be read", "could not list"] {
        assert!(run.text.contains(expected), "{expected} in {}", run.text);
    }
}
