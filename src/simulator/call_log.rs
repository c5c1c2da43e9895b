//! The log of the vim25 calls that clients made: how often each method was called, in all and for
//! each `operationID`.

use std::collections::BTreeMap;

/// The vim25 calls that clients made since the start of the simulator.
#[derive(Debug, Default)]
pub struct CallLog {
    by_method: BTreeMap<String, u64>,
    by_operation: BTreeMap<String, Vec<String>>,
    accepted: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The maximum number of operation ids for which the log records calls. A call with a further
/// operation id counts only for its method.
const MAX_OPERATIONS: usize = 50_000;

impl CallLog {
    /// Records a call, before it runs.
    pub fn record(&mut self, method: &str, operation_id: Option<&str>) {
        *self.by_method.entry(method.to_owned()).or_default() += 1;
        if let Some(operation_id) = operation_id
            && (self.by_operation.len() < MAX_OPERATIONS
                || self.by_operation.contains_key(operation_id))
        {
            self.by_operation.entry(operation_id.to_owned()).or_default().push(method.to_owned());
        }
    }

    /// Records that the host accepted a call: the method ran and returned no fault.
    pub fn record_accepted(&mut self, method: &str, operation_id: &str) {
        if self.accepted.len() < MAX_OPERATIONS || self.accepted.contains_key(operation_id) {
            let methods = self.accepted.entry(operation_id.to_owned()).or_default();
            *methods.entry(method.to_owned()).or_default() += 1;
        }
    }

    /// For each operation id: how many calls of each method the host accepted.
    pub fn accepted_by_operation(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.accepted.clone()
    }

    /// How often clients called `method`.
    pub fn count(&self, method: &str) -> u64 {
        self.by_method.get(method).copied().unwrap_or(0)
    }

    /// How often clients called each method.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.by_method.clone()
    }

    /// For each operation id that clients sent: how often each method was called with it.
    pub fn by_operation(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let counted = |methods: &Vec<String>| {
            let mut counts = BTreeMap::new();
            for method in methods {
                *counts.entry(method.clone()).or_default() += 1;
            }
            counts
        };
        self.by_operation
            .iter()
            .map(|(operation, methods)| (operation.clone(), counted(methods)))
            .collect()
    }

    /// The methods that clients called with this operation id, in order.
    pub fn methods_of_operation(&self, operation_id: &str) -> Vec<String> {
        self.by_operation.get(operation_id).cloned().unwrap_or_default()
    }
}
