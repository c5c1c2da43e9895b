//! A session with the host: single vim25 calls on an open connection, without otter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use otter::domain::verify::Verify;
use otter::esx::FollowedPaths;
use otter::esx::soap::Reference;
use otter::esx::soap::request::{self, PropertySpec, Request, Selection};
use otter::esx::soap::response::{Reply, parse_answer};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http::{self, Connection};

/// The address and the account of the host.
#[derive(Args, Clone, Debug)]
pub struct HostArguments {
    /// The address of the host, which speaks TLS with any certificate.
    #[arg(long)]
    host: SocketAddr,
    #[arg(long, default_value = "root")]
    username: String,
    #[arg(long, default_value = "otter")]
    password: String,
}

#[derive(Args, Debug)]
pub struct FetchArguments {
    #[command(flatten)]
    host: HostArguments,
    /// How often to fetch.
    #[arg(long, default_value_t = 5)]
    count: u32,
}

/// A session on one connection.
pub struct Host {
    connection: Connection<TlsStream<TcpStream>>,
    cookie: String,
    content: Singletons,
}

/// The objects of the host that the calls need.
struct Singletons {
    collector: Reference,
    view_manager: Reference,
    root_folder: Reference,
}

impl Host {
    /// Connects and logs in.
    pub async fn log_in(arguments: &HostArguments) -> anyhow::Result<Self> {
        let HostArguments { host, username, password } = arguments;
        let config = otter::esx::client_config(&Verify::Off)?;
        let stream = TcpStream::connect(host)
            .await
            .with_context(|| format!("cannot connect to the host {host}"))?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(host.ip());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let mut connection = Connection::new(stream);
        let (content, _) = call(&mut connection, "", &request::retrieve_service_content()).await?;
        let element = content.return_value().context("the host has no ServiceContent")?;
        let singleton = |name| {
            Reference::in_child(element, name).with_context(|| format!("the host has no {name}"))
        };
        let manager = singleton("sessionManager")?;
        let content = Singletons {
            collector: singleton("propertyCollector")?,
            view_manager: singleton("viewManager")?,
            root_folder: singleton("rootFolder")?,
        };
        let login = request::login(&manager, username, password);
        let (_, head) = call(&mut connection, "", &login).await?;
        let cookie = http::header(&head, "set-cookie").context("the login set no cookie")?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Self { connection, cookie, content })
    }

    /// Powers a machine on or off and returns once the host reports the end of the task.
    pub async fn power(&mut self, machine: &str, on: bool) -> anyhow::Result<()> {
        let task = self.start_power(machine, on).await?;
        loop {
            let info = [PropertySpec { object_type: "Task", paths: vec!["info.state"] }];
            let tasks = [task.clone()];
            let selection = Selection::Objects(&tasks);
            let read = request::retrieve_properties(&self.content.collector, &info, selection);
            let reply = self.call(&read).await?;
            let state = reply
                .return_value()
                .and_then(|result| result.descend(&["objects", "propSet", "val"]))
                .map(|state| state.text().to_owned());
            match state.as_deref() {
                Some("success") => return Ok(()),
                Some("queued" | "running") => {}
                other => return Err(anyhow!("the task of machine {machine} is {other:?}")),
            }
        }
    }

    /// Starts to power a machine on or off. Returns the task.
    pub async fn start_power(&mut self, machine: &str, on: bool) -> anyhow::Result<Reference> {
        let method = if on { "PowerOnVM_Task" } else { "PowerOffVM_Task" };
        let machine = Reference::new("VirtualMachine", machine);
        let reply = self.call(&request::without_parameters(method, &machine, None)).await?;
        reply.reference().with_context(|| format!("{method} returned no task"))
    }

    /// Fetches the properties that otter follows. Returns the duration and the number of bytes.
    async fn fetch(&mut self, view: &Reference) -> anyhow::Result<(Duration, usize)> {
        let paths = FollowedPaths::default();
        let selection = Selection::View(view);
        let read = request::retrieve_properties(&self.content.collector, paths.specs(), selection);
        let started = Instant::now();
        let (body, _) = exchange(&mut self.connection, &self.cookie, &read).await?;
        let took = started.elapsed();
        if body.windows(7).any(|bytes| bytes == b"<token>") {
            return Err(anyhow!("the host answered with a part of the properties only"));
        }
        Ok((took, body.len()))
    }

    async fn call(&mut self, request: &Request) -> anyhow::Result<Reply> {
        Ok(call(&mut self.connection, &self.cookie, request).await?.0)
    }
}

/// Fetches the properties of everything that otter follows, several times.
pub async fn run_fetch(arguments: FetchArguments) -> anyhow::Result<Value> {
    let mut host = Host::log_in(&arguments.host).await?;
    let types = ["VirtualMachine", "Datastore", "Network"];
    let content = &host.content;
    let create =
        request::create_container_view(&content.view_manager, &content.root_folder, &types);
    let view = host.call(&create).await?.reference().context("the host created no view")?;
    let mut durations = Vec::new();
    let mut size = 0;
    for _ in 0..arguments.count {
        let (took, bytes) = host.fetch(&view).await?;
        durations.push(micros(took));
        size = bytes;
    }
    Ok(json!({"micros": durations, "bytes": size}))
}

/// A duration in microseconds, for the measurements.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

type HostConnection = Connection<TlsStream<TcpStream>>;

async fn call(
    connection: &mut HostConnection,
    cookie: &str,
    request: &Request,
) -> anyhow::Result<(Reply, String)> {
    let (body, head) = exchange(connection, cookie, request).await?;
    let status = if head.contains(" 200 ") { 200 } else { 500 };
    let reply = parse_answer(status, &body, request.method)?
        .map_err(|fault| anyhow!("{} failed: {fault:?}", request.method))?;
    Ok((reply, head))
}

async fn exchange(
    connection: &mut HostConnection,
    cookie: &str,
    request: &Request,
) -> anyhow::Result<(Vec<u8>, String)> {
    let cookie = if cookie.is_empty() { String::new() } else { format!("cookie: {cookie}\r\n") };
    let head = format!(
        "POST /sdk HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/xml; charset=utf-8\r\n\
         soapaction: \"urn:vim25/7.0.3.0\"\r\n{cookie}content-length: {}\r\n\r\n",
        request.envelope.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(request.envelope.as_bytes());
    let answer = connection.exchange(&bytes).await?;
    Ok((answer.body, answer.head))
}
