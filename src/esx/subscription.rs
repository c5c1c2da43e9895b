//! The views and filters that the collector creates on the host, and the properties that otter
//! follows with them.

use super::connections::Lane;
use super::datastore::DATASTORE_PATHS;
use super::machine::MACHINE_PATHS;
use super::network::NETWORK_PATHS;
use super::session::{ExchangeError, Login, Session};
use super::soap::Reference;
use super::soap::request::{self, PropertySpec, Request, Selection};
use crate::hypervisor::{HostError, HostErrorKind};

/// The views and filters that the collector has created on the host.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The `ContainerView` that contains the host's machines, datastores and networks.
    pub machines: Reference,
    /// The `ListView` that contains the followed tasks.
    pub tasks: Reference,
    filters: [Reference; 2],
    /// The generation of the login whose session owns the views and filters.
    generation: u64,
}

/// The properties of machines, datastores and networks that otter follows. Properties that the host
/// does not know are left out.
#[derive(Debug)]
pub struct FollowedPaths(Vec<PropertySpec<'static>>);

impl Subscription {
    /// Creates the views and their filters. Removes from `paths` the properties that the host does
    /// not know.
    ///
    /// # Errors
    /// The errors of [`Session::send`]; `NoAnswer` if the answer to a method that creates an object
    /// names no object.
    pub async fn create(
        session: &Session,
        login: &Login,
        paths: &mut FollowedPaths,
    ) -> Result<Self, ExchangeError> {
        let content = &login.content;
        // The type `Network` includes all types of networks, because they derive from it.
        let types = ["VirtualMachine", "Datastore", "Network"];
        let view =
            request::create_container_view(&content.view_manager, &content.root_folder, &types);
        let machines = create_object(session, login, view).await?;
        let view = request::create_list_view(&content.view_manager);
        let tasks = create_object(session, login, view).await?;
        let collector = &content.property_collector;
        let info = [PropertySpec { object_type: "Task", paths: vec!["info"] }];
        let filter = request::create_filter(collector, &info, Selection::View(&tasks));
        let task_filter = create_object(session, login, filter).await?;
        let machine_filter = loop {
            let selection = Selection::View(&machines);
            let filter = request::create_filter(collector, paths.specs(), selection);
            match create_object(session, login, filter).await {
                Err(error) if paths.drop_unknown(&error) => {}
                result => break result?,
            }
        };
        let filters = [task_filter, machine_filter];
        Ok(Self { machines, tasks, filters, generation: login.generation() })
    }

    /// Whether the views and filters belong to the session of `login`.
    #[must_use]
    pub fn belongs_to(&self, login: &Login) -> bool {
        self.generation == login.generation()
    }

    /// Destroys the views and filters, as far as the host still has them.
    pub async fn destroy(&self, session: &Session, login: &Login) {
        let filters = self.filters.iter().map(request::destroy_property_filter);
        let views = [&self.machines, &self.tasks].map(request::destroy_view);
        for request in filters.chain(views) {
            // The result is ignored, because the call fails if the host has already removed the
            // object.
            let _ = session.send(login, request, Lane::Reserved).await;
        }
    }
}

impl Default for FollowedPaths {
    fn default() -> Self {
        let followed = [("VirtualMachine", MACHINE_PATHS), ("Datastore", DATASTORE_PATHS)];
        let specs = followed.into_iter().chain(NETWORK_PATHS);
        Self(
            specs
                .map(|(object_type, paths)| PropertySpec { object_type, paths: paths.to_vec() })
                .collect(),
        )
    }
}

impl FollowedPaths {
    /// The types and paths to follow, as a filter or a read takes them.
    #[must_use]
    pub fn specs(&self) -> &[PropertySpec<'static>] {
        &self.0
    }

    /// Handles the fault of an old host that does not know a property or a type: otter stops
    /// following the property, or the networks. Returns whether otter had followed them, so that
    /// the caller can try again.
    pub fn drop_unknown(&mut self, error: &ExchangeError) -> bool {
        let ExchangeError::Fault(fault) = error else { return false };
        if matches!(fault.name.as_str(), "InvalidType" | "InvalidArgument") {
            return self.drop_networks();
        }
        let Some(path) = fault.details.get("name").filter(|_| fault.name == "InvalidProperty")
        else {
            return false;
        };
        let count = |specs: &[PropertySpec<'_>]| specs.iter().map(|spec| spec.paths.len()).sum();
        let before: usize = count(&self.0);
        for spec in &mut self.0 {
            spec.paths.retain(|followed| followed != path);
        }
        tracing::warn!(path, "the host does not know a property; it stays empty");
        before > count(&self.0)
    }

    /// Stops following networks. Their types are the newest of the followed types: `OpaqueNetwork`
    /// exists since API 5.5. Returns whether otter had followed networks.
    fn drop_networks(&mut self) -> bool {
        let before = self.0.len();
        let is_network = |name| NETWORK_PATHS.iter().any(|(network, _)| *network == name);
        self.0.retain(|spec| !is_network(spec.object_type));
        let dropped = before > self.0.len();
        if dropped {
            tracing::warn!("the host does not know the types of networks; cards show their keys");
        }
        dropped
    }
}

/// Calls a method that creates an object on the host, and returns the reference to the object.
async fn create_object(
    session: &Session,
    login: &Login,
    request: Request,
) -> Result<Reference, ExchangeError> {
    let method = request.method;
    let reply = session.send(login, request, Lane::Reserved).await?;
    reply.reference().ok_or_else(|| {
        let message =
            format!("The host {} answered {method} without an object.", session.address());
        ExchangeError::NoAnswer(HostError::new(HostErrorKind::Protocol, message))
    })
}
