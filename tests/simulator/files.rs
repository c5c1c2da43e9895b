//! Tests of the files of datastores: `/folder`, the datastore browser and the file manager, with
//! their mishaps.

use std::io::ErrorKind;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use otter::simulator::{FilesChange, TransferEnd, TransferMishap};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// The folder of images of the lab, and a file in it.
const FOLDER: &str = "[isos] iso";
const ISO: &str = "[isos] iso/a b+c.iso";
const ISO_URL: &str = "iso/a%20b%2Bc.iso?dcPath=ha-datacenter&dsName=isos";
const GIB: u64 = 1 << 30;

/// What a request to `/folder` is answered.
struct Folder {
    status: u16,
    range: String,
    length: Option<u64>,
    is_dated: bool,
    body: Vec<u8>,
}

impl Lab {
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/folder/{path}", self.simulator.url());
        self.client.request(method, url).header("Cookie", self.cookie.as_ref().unwrap())
    }

    async fn folder(&self, method: Method, path: &str) -> Folder {
        Folder::read(self.request(method, path)).await
    }

    async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> u16 {
        Folder::read(self.request(Method::PUT, path).body(body)).await.status
    }

    fn put_by_admin(&self, path: &str, length: u64) {
        let content = world::FileContent::zeros(length);
        self.control().change_files(FilesChange::Put { path: path.to_owned(), content });
    }

    /// Runs a task of the browser or of the file manager to its end. Returns its result, or the
    /// type of its fault.
    async fn files_task(&self, method: &str, parameters: &str) -> Result<Reply, String> {
        let (kind, id) = if method.starts_with("Search") {
            ("HostDatastoreBrowser", "ha-host-datastorebrowser")
        } else {
            ("FileManager", "ha-nfc-file-manager")
        };
        let reply = self.call(method, kind, id, parameters).await;
        if let Some(fault) = reply.fault() {
            return Err(fault);
        }
        let task = reply.returned().text().to_owned();
        self.control().finish_task(&task);
        let reply = self.fetch("Task", &task, "info").await;
        let fault = reply.returned().descend(&["error", "fault"]);
        match fault.and_then(Element::type_name) {
            Some(fault) => Err(fault.to_owned()),
            None => Ok(reply),
        }
    }

    /// What a search in a folder finds: the type, the path and the size of each file.
    async fn search(&self, folder: &str, spec: &str) -> Vec<(String, String, Option<u64>)> {
        let details = "<details><fileType>true</fileType><fileSize>true</fileSize>\
                       <modification>true</modification><fileOwner>false</fileOwner></details>";
        let (query, rest) = spec.split_once('|').unwrap_or(("", spec));
        let parameters = format!(
            "<datastorePath>{folder}</datastorePath><searchSpec>{query}{details}{rest}</searchSpec>"
        );
        let found = self.files_task("SearchDatastore_Task", &parameters).await.unwrap();
        let result = found.returned().child("result").unwrap();
        files_of(result)
    }
}

fn files_of(result: Element<'_>) -> Vec<(String, String, Option<u64>)> {
    let files = result.children_named("file").map(|file| {
        let text = |name| file.child_text(name).map(str::to_owned);
        let kind = file.type_name().unwrap_or("FileInfo").to_owned();
        (kind, text("path").unwrap(), text("fileSize").map(|size| size.parse().unwrap()))
    });
    files.collect()
}

fn names(found: &[(String, String, Option<u64>)]) -> Vec<&str> {
    found.iter().map(|(_, name, _)| name.as_str()).collect()
}

impl Folder {
    async fn read(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let text = |name| {
            let value = answer.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        Self {
            status: answer.status().as_u16(),
            range: text(CONTENT_RANGE).unwrap_or_default(),
            length: text(CONTENT_LENGTH).map(|length| length.parse().unwrap()),
            is_dated: answer.headers().contains_key(LAST_MODIFIED),
            body: answer.bytes().await.unwrap().to_vec(),
        }
    }
}

/// A body that sends `sent` bytes and then waits for ever, although it promises more.
fn unfinished(sent: usize) -> reqwest::Body {
    let first = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![7; sent])))]);
    reqwest::Body::wrap(StreamBody::new(first.chain(stream::pending())))
}

/// Writes to a connection until it fails.
async fn write_until_error(stream: &mut (impl AsyncWrite + Unpin), head: &str) -> std::io::Error {
    let part = vec![1; 64 << 10];
    let mut next = head.as_bytes();
    loop {
        if let Err(error) = stream.write_all(next).await {
            return error;
        }
        if let Err(error) = stream.flush().await {
            return error;
        }
        next = &part;
    }
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_put_whole_and_by_ranges() {
    let lab = Lab::stepped().await;
    assert_eq!(lab.folder(Method::GET, ISO_URL).await.status, 404);
    let body: Vec<u8> = (0..700_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
    assert_eq!(lab.put(ISO_URL, body.clone()).await, 201);
    let whole = lab.folder(Method::GET, ISO_URL).await;
    assert_eq!((whole.status, whole.length, whole.is_dated), (200, Some(700_000), false));
    assert!(whole.body == body && lab.control().file_bytes(ISO) == Some(body.clone()));
    let head = lab.folder(Method::HEAD, ISO_URL).await;
    assert_eq!((head.status, head.length, head.body.len()), (200, Some(700_000), 0));
    for (range, first, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=262143-262145", 262_143, 262_146),
        ("bytes=-3", 699_997, 700_000),
    ] {
        let part = Folder::read(lab.request(Method::GET, ISO_URL).header(RANGE, range)).await;
        assert_eq!((part.status, part.length), (206, Some((end - first) as u64)), "{range}");
        assert_eq!(part.range, format!("bytes {first}-{}/700000", end - 1));
        assert!(part.body == body[first..end], "{range}");
    }
    let beyond = lab.request(Method::GET, ISO_URL).header(RANGE, "bytes=700000-");
    let beyond = Folder::read(beyond).await;
    assert_eq!((beyond.status, beyond.range.as_str()), (416, "bytes */700000"));
    assert_eq!(lab.put(ISO_URL, "short").await, 200, "replaced without a question");
    assert_eq!(lab.control().file_bytes(ISO), Some(b"short".to_vec()));
    assert_eq!(lab.folder(Method::DELETE, ISO_URL).await.status, 200);
    assert_eq!(lab.folder(Method::DELETE, ISO_URL).await.status, 404);
}

#[tokio::test]
async fn ten_gibibytes_of_zeros_take_no_memory() {
    let lab = Lab::stepped().await;
    lab.put_by_admin(ISO, 10 * GIB);
    let last = Folder::read(lab.request(Method::GET, ISO_URL).header(RANGE, "bytes=-5")).await;
    assert_eq!((last.status, last.body), (206, vec![0; 5]));
    assert_eq!(last.range, format!("bytes {}-{}/{}", 10 * GIB - 5, 10 * GIB - 1, 10 * GIB));
    assert_eq!(lab.put(ISO_URL, vec![0; 32 << 20]).await, 200);
    let path = world::FilePath::parse(ISO).unwrap();
    let kept = lab.control().look(|world| world.read_file(&path).unwrap().content.kept());
    assert_eq!((kept, lab.control().file_length(ISO)), (0, Some(32 << 20)));
}

#[tokio::test]
async fn no_folder_is_made_and_only_a_session_may_write() {
    let mut lab = Lab::stepped().await;
    assert_eq!(lab.put("none/a.iso?dsName=isos", "x").await, 404);
    assert_eq!(lab.put("a.iso?dsName=none", "x").await, 404);
    assert_eq!(lab.put("iso?dsName=isos", "x").await, 500, "a folder");
    assert_eq!(lab.folder(Method::POST, ISO_URL).await.status, 405);
    for (path, status) in [("../a.iso?dsName=isos", 404), ("a.iso?dcPath=x&dsName=isos", 404)] {
        assert_eq!(lab.put(path, "x").await, status, "{path}");
    }
    lab.control().set_read_only_licence(true);
    assert_eq!(lab.put(ISO_URL, "x").await, 403);
    assert_eq!(lab.folder(Method::DELETE, ISO_URL).await.status, 403);
    lab.control().set_read_only_licence(false);
    let change = FilesChange::Datastore {
        name: "isos".to_owned(),
        free_bytes: None,
        accessible: Some(false),
    };
    lab.control().change_files(change);
    assert_eq!(lab.put(ISO_URL, "x").await, 500);
    assert_eq!(lab.folder(Method::GET, ISO_URL).await.status, 500);
    lab.cookie = Some("vmware_soap_session=none".to_owned());
    assert_eq!(lab.put(ISO_URL, "x").await, 401);
    let basic = lab.client.get(format!("{}/folder", lab.simulator.url()));
    let basic = Folder::read(basic.basic_auth("root", Some("otter"))).await;
    assert_eq!(basic.status, 200);
}

#[tokio::test]
async fn folders_are_lists_for_people_with_all_files() {
    let lab = Lab::stepped().await;
    lab.put_by_admin("[scratch] a&b/.hidden", 1);
    lab.put_by_admin("[scratch] a&b/x.vmdk", 1);
    lab.put_by_admin("[scratch] a&b/x-flat.vmdk", 1);
    lab.put_by_admin("[scratch] a&b/below/y", 1);
    let html = async |path: &str| {
        let listed = lab.folder(Method::GET, path).await;
        (listed.status, String::from_utf8(listed.body).unwrap())
    };
    let (status, list) = html("a%26b?dcPath=ha-datacenter&dsName=scratch").await;
    assert_eq!(status, 200);
    for name in [">.hidden<", ">x.vmdk<", ">x-flat.vmdk<", ">below/<", "Index of [scratch] a&amp;b"]
    {
        assert!(list.contains(name), "{name}: {list}");
    }
    assert!(!list.contains(">y<"));
    // The links lead to the files.
    let link = list.split('"').find(|part| part.contains("below")).unwrap().replace("&amp;", "&");
    let (_, below) = html(link.strip_prefix("/folder/").unwrap()).await;
    assert!(below.contains(">y<"), "{below}");
    assert!(html("?dcPath=ha-datacenter").await.1.contains("dsName=scratch"));
    assert!(html("").await.1.contains("dcPath=ha-datacenter"));
    assert_eq!(html("none/?dsName=scratch").await.0, 404);
}

#[tokio::test]
async fn a_cut_leaves_a_part_of_the_file_which_is_free_at_once() {
    let lab = Lab::stepped().await;
    let request = lab.request(Method::PUT, ISO_URL).header(CONTENT_LENGTH, 2_000_000);
    let upload = tokio::spawn(request.body(unfinished(300_000)).send());
    let length = |control: &Control| control.file_length(ISO).unwrap_or(0);
    bounded(lab.control().until(|control| length(control) >= 200_000)).await;
    // A second client is reset while the first one writes.
    let second = lab.request(Method::PUT, ISO_URL).body(vec![1; 4 << 20]).send().await;
    assert!(second.is_err());
    assert_eq!(lab.folder(Method::DELETE, ISO_URL).await.status, 500);
    upload.abort();
    let path = world::FilePath::parse(ISO).unwrap();
    let is_free = |control: &Control| {
        let file = control.look(|world| world.read_file(&path));
        file.is_ok_and(|file| !file.is_in_use)
    };
    bounded(lab.control().until(is_free)).await;
    let part = lab.control().file_bytes(ISO).unwrap();
    assert!((200_000..=300_000).contains(&part.len()) && part.iter().all(|byte| *byte == 7));
    assert_eq!(lab.folder(Method::DELETE, ISO_URL).await.status, 200);
}

#[tokio::test]
async fn transfers_are_slow_or_end_early_as_a_test_plans() {
    let lab = Lab::stepped().await;
    let plan = |call: &str, end, bytes_per_second| {
        let mishap = TransferMishap { end, bytes_per_second };
        lab.control().disrupt_next(call, Disruption::Transfer(mishap));
    };
    let body = vec![3; 1 << 20];
    // The host refuses the client while the body still comes: a client that reads sees it.
    let early = TransferEnd::Answer(StatusCode::UNAUTHORIZED);
    plan("PUT /folder", Some((100_000, early)), None);
    let sent = lab.request(Method::PUT, ISO_URL).header(CONTENT_LENGTH, 1 << 20);
    let answer = bounded(sent.body(unfinished(200_000)).send()).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(lab.control().file_length(ISO), Some(100_000));
    plan("PUT /folder", Some((500_000, TransferEnd::Cut)), None);
    assert!(lab.request(Method::PUT, ISO_URL).body(body.clone()).send().await.is_err());
    assert_eq!(lab.control().file_length(ISO), Some(500_000));
    // A stalled upload is open, and its file is not in use any more.
    plan("PUT /folder", Some((7, TransferEnd::Stall)), None);
    let stalled = tokio::spawn(lab.request(Method::PUT, ISO_URL).body(body.clone()).send());
    bounded(lab.control().until(|control| control.file_length(ISO) == Some(7))).await;
    assert_eq!(lab.put(ISO_URL, body.clone()).await, 200);
    assert!(!stalled.is_finished());
    stalled.abort();

    plan("GET /folder", Some((1_000, TransferEnd::Cut)), None);
    let answer = lab.request(Method::GET, ISO_URL).send().await.unwrap();
    assert_eq!(answer.content_length(), Some(1 << 20));
    assert!(answer.bytes().await.is_err());
    plan("GET /folder", Some((1_000, TransferEnd::Stall)), None);
    let mut answer = lab.request(Method::GET, ISO_URL).send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    drop(answer);
    // 1 MiB at 256 KiB a second takes four seconds of the host's clock.
    plan("GET /folder", None, Some(256 << 10));
    let begun = lab.clock.elapsed();
    let answer = bounded(lab.request(Method::GET, ISO_URL).send()).await.unwrap();
    let read = tokio::spawn(answer.bytes());
    let pass_time = async {
        while !read.is_finished() {
            lab.clock.advance(Duration::from_millis(10));
            tokio::task::yield_now().await;
        }
    };
    bounded(pass_time).await;
    assert_eq!(read.await.unwrap().unwrap().len(), 1 << 20);
    assert!(lab.clock.elapsed() >= begun + Duration::from_secs(4));
}

#[tokio::test]
async fn a_file_in_use_resets_its_writer_and_a_locked_disk_refuses_its_reader() {
    let lab = Lab::stepped().await;
    let flat = "qubes-4.2-sdw-staging/qubes-4.2-sdw-staging-flat.vmdk?dsName=datastore1";
    let disk = lab.folder(Method::HEAD, flat).await;
    assert_eq!((disk.status, disk.length), (200, Some(200 * GIB)));
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.0, "success");
    assert_eq!(lab.folder(Method::GET, flat).await.status, 500);
    let own = |name: &str| format!("qubes-4.2-sdw-staging/{name}?dsName=datastore1");
    let log = lab.folder(Method::GET, &own("vmware.log")).await;
    let log = String::from_utf8(log.body).unwrap();
    assert!(log.contains("Log for VMware ESX") && log.contains("PowerOn"), "{log}");
    let nvram = lab.folder(Method::GET, &own("qubes-4.2-sdw-staging.nvram")).await;
    assert_eq!((nvram.status, nvram.body.len(), &nvram.body[..4]), (200, 270_840, &b"MRVN"[..]));
    let config = lab.folder(Method::GET, &own("qubes-4.2-sdw-staging.vmx")).await;
    let config = String::from_utf8(config.body).unwrap();
    assert!(config.contains("displayName = \"qubes-4.2-sdw-staging\""), "{config}");
    for name in ["qubes-4.2-sdw-staging.vmx", "vmware.log"] {
        let sent = lab.request(Method::PUT, &own(name)).body(vec![1; 4 << 20]).send().await;
        assert!(sent.is_err(), "{name}");
        assert_eq!(lab.folder(Method::DELETE, &own(name)).await.status, 500, "{name}");
    }
    lab.put_by_admin(ISO, 3);
    let lock = |locked| FilesChange::Lock { path: ISO.to_owned(), locked };
    lab.control().change_files(lock(true));
    assert_eq!(lab.folder(Method::GET, ISO_URL).await.status, 500);
    lab.control().change_files(lock(false));
    assert_eq!(lab.folder(Method::GET, ISO_URL).await.status, 200);
}

/// A client that only writes gets a reset of its connection.
#[tokio::test]
async fn the_connection_of_a_writer_is_reset_while_it_still_sends() {
    let lab = Lab::stepped().await;
    lab.put_by_admin(ISO, 3);
    lab.control().change_files(FilesChange::Lock { path: ISO.to_owned(), locked: true });
    let stream = TcpStream::connect(lab.simulator.address()).await.unwrap();
    let mut stream = tls(&lab).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let head = format!(
        "PUT /folder/{ISO_URL} HTTP/1.1\r\nhost: x\r\ncookie: {}\r\ncontent-length: {GIB}\r\n\r\n",
        lab.cookie.as_ref().unwrap()
    );
    let error = bounded(write_until_error(&mut stream, &head)).await;
    let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    let mut rest = Vec::new();
    assert!(bounded(stream.read_to_end(&mut rest)).await.is_err() || rest.is_empty());
}

fn tls(lab: &Lab) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let pem = lab.simulator.certificate_pem();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config.with_no_client_auth()))
}

#[tokio::test]
async fn a_full_datastore_takes_what_fits_and_a_refresh_reports_the_free_space() {
    let lab = Lab::stepped().await;
    let change = FilesChange::Datastore {
        name: "isos".to_owned(),
        free_bytes: Some(1_000_000),
        accessible: None,
    };
    lab.control().change_files(change);
    let free = async || {
        let id = "10.0.0.5:/export/isos";
        let summary = lab.fetch("Datastore", id, "summary").await;
        let info = lab.fetch("Datastore", id, "info").await;
        let free = summary.returned().child_text("freeSpace").unwrap().parse::<i64>().unwrap();
        (free, info.returned().child_text("timestamp").unwrap().to_owned())
    };
    let (before, measured_at) = free().await;
    assert_eq!(lab.put(ISO_URL, vec![1; 400_000]).await, 201);
    lab.clock.advance(Duration::from_secs(5));
    assert_eq!(free().await, (before, measured_at.clone()), "the host has not looked again");
    let refreshed = lab.call("RefreshDatastore", "Datastore", "10.0.0.5:/export/isos", "").await;
    assert!(refreshed.is_empty_answer());
    let (after, measured_again_at) = free().await;
    assert_eq!(after, 600_000);
    assert!(measured_again_at > measured_at, "{measured_at}");
    assert_eq!(lab.put("iso/b?dsName=isos", vec![1; 700_000]).await, 500);
    assert_eq!(lab.control().file_length("[isos] iso/b"), Some(600_000));
    assert_eq!(lab.folder(Method::DELETE, "iso/b?dsName=isos").await.status, 200);
    assert_eq!(lab.put(ISO_URL, vec![1; 900_000]).await, 200, "a replaced file frees its space");
}

#[tokio::test]
async fn the_browser_shows_a_disk_as_one_file_and_hides_dot_files() {
    let lab = Lab::stepped().await;
    for name in ["a.iso", "B.ISO", ".hidden", "x.vmdk", "lone-flat.vmdk"] {
        lab.put_by_admin(&format!("[isos] iso/{name}"), 10);
    }
    lab.put_by_admin("[isos] iso/x-flat.vmdk", 4_096);
    lab.put_by_admin("[isos] iso/below/c.iso", 10);
    let all = lab.search(FOLDER, "").await;
    assert_eq!(names(&all), ["B.ISO", "a.iso", "below", "lone-flat.vmdk", "x.vmdk"]);
    let kinds: Vec<&str> = all.iter().map(|(kind, ..)| kind.as_str()).collect();
    let iso = "IsoImageFileInfo";
    assert_eq!(kinds, [iso, iso, "FolderFileInfo", "VmDiskFileInfo", "VmDiskFileInfo"]);
    assert_eq!((all[0].2, all[4].2), (Some(10), Some(4_096)), "the size of the extent");
    let found = lab.search(FOLDER, "<matchPattern>*.iso</matchPattern>").await;
    assert_eq!(names(&found), ["a.iso"]);
    let both = "<searchCaseInsensitive>true</searchCaseInsensitive>\
                <matchPattern>*.iso</matchPattern>";
    assert_eq!(names(&lab.search(FOLDER, both).await), ["B.ISO", "a.iso"]);
    let sorted = lab.search(FOLDER, "<sortFoldersFirst>true</sortFoldersFirst>").await;
    assert_eq!(names(&sorted)[0], "below");
    let folders = lab.search(FOLDER, "<query i:type=\"FolderFileQuery\"/>|").await;
    assert_eq!(names(&folders), ["below"]);

    let parameters = format!("<datastorePath>{FOLDER}</datastorePath>");
    let found = lab.files_task("SearchDatastoreSubFolders_Task", &parameters).await.unwrap();
    let result = found.returned().child("result").unwrap();
    assert_eq!(result.type_name(), Some("ArrayOfHostDatastoreBrowserSearchResults"));
    let folders: Vec<_> = result
        .children()
        .map(|result| (result.child_text("folderPath").unwrap(), files_of(result).len()))
        .collect();
    assert_eq!(folders, [("[isos] iso/", 5), ("[isos] iso/below/", 1)]);
    // The task names no entity, and the result names its datastore.
    assert!(found.returned().child("entity").is_none());
    let task = found.returned().child_text("key").unwrap();
    assert!(task.starts_with("haTask--vim.HostDatastoreBrowser.search-"), "{task}");

    let search = async |path: &str| {
        let parameters = format!("<datastorePath>{path}</datastorePath>");
        lab.files_task("SearchDatastore_Task", &parameters).await.err().unwrap_or_default()
    };
    assert_eq!(search("[isos] none").await, "FileNotFound");
    assert_eq!(search("[isos] iso/a.iso").await, "FileNotFound");
    assert_eq!(search("[none] x").await, "InvalidDatastore");
    assert_eq!(search("isos/x").await, "InvalidDatastorePath");
    assert_eq!(search("[isos]").await, "");
    let machine = lab.search("[datastore1] qubes-4.2-sdw-prod", "").await;
    assert_eq!(
        names(&machine),
        [
            "qubes-4.2-sdw-prod-Snapshot1.vmsn",
            "qubes-4.2-sdw-prod-Snapshot2.vmsn",
            "qubes-4.2-sdw-prod-Snapshot3.vmsn",
            "qubes-4.2-sdw-prod.nvram",
            "qubes-4.2-sdw-prod.vmdk",
            "qubes-4.2-sdw-prod.vmsd",
            "qubes-4.2-sdw-prod.vmx",
            "qubes-4.2-sdw-prod.vswp",
            "vmware.log",
        ]
    );
}

#[tokio::test]
async fn the_file_manager_makes_moves_copies_and_deletes() {
    let lab = Lab::stepped().await;
    let make = async |path: &str, rest: &str| {
        let parameters = format!("<name>{path}</name>{rest}");
        let made = lab.call("MakeDirectory", "FileManager", "ha-nfc-file-manager", &parameters);
        made.await.fault().unwrap_or_default()
    };
    assert_eq!(make("[isos] iso/a/b", "").await, "FileNotFound");
    let parents = "<createParentDirectories>true</createParentDirectories>";
    assert_eq!(make("[isos] iso/a/b", parents).await, "");
    assert_eq!(make("[isos] iso/a/b", "").await, "FileAlreadyExists");
    let datacenter = "<datacenter type=\"Datacenter\">ha-datacenter</datacenter>";
    assert_eq!(make("[isos] iso/c", datacenter).await, "");
    assert_eq!(make("[isos] ../x", "").await, "InvalidDatastorePath");

    let outcome = async |method: &str, parameters: &str| {
        lab.files_task(method, parameters).await.err().unwrap_or_default()
    };
    let pair = |from: &str, to: &str, rest: &str| {
        format!("<sourceName>{from}</sourceName><destinationName>{to}</destinationName>{rest}")
    };
    lab.put_by_admin(ISO, 5);
    let (part, force) = ("[isos] iso/a/b/x.part", "<force>true</force>");
    assert_eq!(outcome("MoveDatastoreFile_Task", &pair(ISO, part, "")).await, "");
    assert_eq!(lab.control().file_length(ISO), None);
    assert_eq!(lab.control().file_length(part), Some(5));
    assert_eq!(outcome("MoveDatastoreFile_Task", &pair(ISO, part, "")).await, "FileNotFound");
    lab.put_by_admin(ISO, 7);
    let again = pair(part, ISO, "");
    assert_eq!(outcome("MoveDatastoreFile_Task", &again).await, "FileAlreadyExists");
    assert_eq!(outcome("MoveDatastoreFile_Task", &pair(part, ISO, force)).await, "");
    assert_eq!(lab.control().file_length(ISO), Some(5));
    assert_eq!(outcome("CopyDatastoreFile_Task", &pair(ISO, part, "")).await, "");
    assert_eq!(lab.control().file_length(part), Some(5));
    let nowhere = pair(ISO, "[isos] none/x", "");
    assert_eq!(outcome("CopyDatastoreFile_Task", &nowhere).await, "FileNotFound");
    // A folder goes with all that is in it, unless a file in it is in use.
    let lock = |locked| FilesChange::Lock { path: part.to_owned(), locked };
    let delete = "<name>[isos] iso/a</name>";
    lab.control().change_files(lock(true));
    assert_eq!(outcome("DeleteDatastoreFile_Task", delete).await, "FileLocked");
    assert_eq!(lab.control().file_length(part), Some(5));
    lab.control().change_files(lock(false));
    assert_eq!(outcome("DeleteDatastoreFile_Task", delete).await, "");
    assert_eq!(lab.control().file_length(part), None);
    assert_eq!(outcome("DeleteDatastoreFile_Task", delete).await, "FileNotFound");
    lab.control().set_read_only_licence(true);
    assert_eq!(outcome("DeleteDatastoreFile_Task", delete).await, "RestrictedVersion");
    assert_eq!(make("[isos] iso/d", "").await, "RestrictedVersion");
    assert_eq!(outcome("SearchDatastore_Task", "<datastorePath>[isos]</datastorePath>").await, "");
}

#[tokio::test]
async fn a_task_of_files_is_one_of_the_host_and_can_fail_as_a_test_plans() {
    let lab = Lab::stepped().await;
    let full = Fault::new("NoDiskSpace", "full").with("file", "x").with("datastore", "isos");
    lab.control().fail_next_task("SearchDatastore_Task", full);
    let search = "<datastorePath>[isos]</datastorePath>";
    let failed = lab.files_task("SearchDatastore_Task", search).await;
    assert_eq!(failed.err().as_deref(), Some("NoDiskSpace"));
    let reply = lab
        .call("SearchDatastore_Task", "HostDatastoreBrowser", "ha-host-datastorebrowser", search)
        .await;
    let task = reply.returned().text().to_owned();
    assert!(lab.control().running_tasks().contains(&task));
    let recent = lab.fetch("TaskManager", "ha-taskmgr", "recentTask").await;
    let listed = recent.returned().children().any(|known| known.text() == task);
    assert!(listed);
    assert!(lab.call("CancelTask", "Task", &task, "").await.is_empty_answer());
    assert_eq!(lab.finish(&task).await.1.as_deref(), Some("RequestCanceled"));
}

#[tokio::test]
async fn a_directory_has_the_files_of_datastores() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir_all(path("isos/iso/empty")).unwrap();
    let body: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(path("isos/iso/a.iso"), &body).unwrap();
    let sparse = std::fs::File::create(path("isos/big.iso")).unwrap();
    sparse.set_len(10 * GIB).unwrap();
    let scenario = Scenario::lab().unwrap().with_files(directory.path().to_owned()).await.unwrap();
    let mut lab = Lab::start(scenario).await;
    lab.log_in().await;
    let whole = lab.folder(Method::GET, "iso/a.iso?dsName=isos").await;
    assert!(whole.status == 200 && whole.body == body);
    let range = lab.request(Method::GET, "big.iso?dsName=isos").header(RANGE, "bytes=-4");
    assert_eq!(Folder::read(range).await.body, [0; 4]);
    assert!(names(&lab.search(FOLDER, "").await).contains(&"empty"));
    // A client replaces the file on the simulated host, and not in the directory.
    assert_eq!(lab.put("iso/a.iso?dsName=isos", "new").await, 200);
    assert_eq!(lab.folder(Method::GET, "iso/a.iso?dsName=isos").await.body, b"new");
    assert!(std::fs::read(path("isos/iso/a.iso")).unwrap() == body);
    std::fs::create_dir(path("nas")).unwrap();
    let wrong = Scenario::lab().unwrap().with_files(directory.path().to_owned()).await;
    let error = wrong.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("nas"), "{source}");
}

#[tokio::test]
async fn the_admin_endpoint_puts_files_and_lists_them() {
    let mut lab = Lab::with(Scenario::lab().unwrap(), |options| {
        options.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    lab.log_in().await;
    let admin = format!("http://{}", lab.simulator.admin().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |path: &str, body: serde_json::Value| {
        let sent = client.post(format!("{admin}/{path}")).body(body.to_string()).send().await;
        sent.unwrap().status().as_u16()
    };
    let put = json!({"put": {"path": ISO, "text": "CD001", "bytes": 9}});
    assert_eq!(post("files", put).await, 200);
    assert_eq!(lab.folder(Method::GET, ISO_URL).await.body, b"CD001\0\0\0\0");
    let listed = client.get(format!("{admin}/files")).send().await.unwrap().text().await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[ISO], 9);
    let transfer = json!({"transfer": {"after_bytes": 2, "then": "cut"}});
    let plan = json!({"method": "GET /folder", "what": transfer});
    assert_eq!(post("faults", plan).await, 200);
    assert!(lab.request(Method::GET, ISO_URL).send().await.unwrap().bytes().await.is_err());
    assert_eq!(post("files", json!({"remove": {"path": ISO}})).await, 200);
    assert_eq!(lab.folder(Method::GET, ISO_URL).await.status, 404);
    assert_eq!(post("files", json!({"put": {"path": "x"}})).await, 400);
}
