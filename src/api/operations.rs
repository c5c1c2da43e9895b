//! Finds the operation of a request before the routes do: the name of the operation in metrics and
//! in the audit, and the access that it requires. otter makes each operation once, when it starts.

use http::Method;

use super::roles::{Access, AccessTable};
use crate::domain::access::Role;
use crate::telemetry::metrics::{Metrics, OperationMetrics};

/// The methods that have a name of their own in metrics. All other methods have the name `OTHER`.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// One method of one path: the access that it requires, and its metrics, which have its name.
pub struct Operation {
    pub access: Access,
    pub metrics: OperationMetrics,
}

/// The operations of all paths.
pub struct Operations {
    /// For each pattern of a path: one operation for each of [`METHODS`], and one for all other
    /// methods.
    paths: matchit::Router<Vec<Operation>>,
    /// The operation of requests whose path does not exist.
    unknown: Operation,
}

impl Operations {
    /// The operations of a table of paths.
    ///
    /// # Errors
    /// Fails if two patterns of the table match the same paths.
    pub fn new(table: &AccessTable, metrics: &Metrics) -> Result<Self, matchit::InsertError> {
        let mut paths = matchit::Router::new();
        for (path, required) in table {
            let operation = |method: Option<&Method>| {
                let name = method.map_or("OTHER", Method::as_str);
                let metrics = metrics.operation(format!("{name} {path}"));
                Operation { access: access(required, method), metrics }
            };
            paths.insert(
                path.as_str(),
                METHODS.iter().map(Some).chain([None]).map(operation).collect::<Vec<_>>(),
            )?;
        }
        let unknown = Operation {
            access: access(&[], None),
            metrics: metrics.operation("unknown".to_owned()),
        };
        Ok(Self { paths, unknown })
    }

    /// The operation of a request.
    pub fn find(&self, method: &Method, path: &str) -> &Operation {
        let Ok(found) = self.paths.at(path) else { return &self.unknown };
        let position = METHODS.iter().position(|known| known == method).unwrap_or(METHODS.len());
        found.value.get(position).unwrap_or(&self.unknown)
    }
}

/// The access that a method of a path requires.
fn access(required: &[(Method, Access)], method: Option<&Method>) -> Access {
    let access_for = |method: &Method| {
        required.iter().find(|(known, _)| known == method).map(|(_, access)| *access)
    };
    let method = method.map(|method| if *method == Method::HEAD { &Method::GET } else { method });
    // A method that the path does not have requires a token too, because a 404 or a 405 shows which
    // paths exist.
    method.and_then(access_for).unwrap_or_else(|| match access_for(&Method::GET) {
        Some(Access::Open) => Access::Open,
        _ => Access::AtLeast(Role::Viewer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_the_name_and_the_access_of_its_operation() {
        let viewer = Access::AtLeast(Role::Viewer);
        let runner = Access::AtLeast(Role::Runner);
        let table = AccessTable::from([
            ("/v1/machines/find".to_owned(), vec![(Method::GET, viewer)]),
            (
                "/v1/machines/{machine}".to_owned(),
                vec![(Method::GET, viewer), (Method::POST, runner)],
            ),
            ("/healthz".to_owned(), vec![(Method::GET, Access::Open)]),
        ]);
        let operations = Operations::new(&table, &Metrics::default()).unwrap();
        for (method, path, name, access) in [
            ("GET", "/v1/machines/7", "GET /v1/machines/{machine}", viewer),
            ("HEAD", "/v1/machines/7", "HEAD /v1/machines/{machine}", viewer),
            ("POST", "/v1/machines/7", "POST /v1/machines/{machine}", runner),
            ("GET", "/v1/machines/find", "GET /v1/machines/find", viewer),
            ("DELETE", "/v1/machines/find", "DELETE /v1/machines/find", viewer),
            ("PROPFIND", "/healthz", "OTHER /healthz", Access::Open),
            ("POST", "/healthz", "POST /healthz", Access::Open),
            ("GET", "/v1/machines/7/", "unknown", viewer),
            ("GET", "*", "unknown", viewer),
        ] {
            let found = operations.find(&method.parse().unwrap(), path);
            assert_eq!((found.metrics.operation(), found.access), (name, access), "{path}");
        }
    }
}
