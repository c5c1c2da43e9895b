//! The answers of a host that need no login: the API versions that it speaks, and `ServiceContent`
//! with the host's singletons (its managers) and its product.

use super::soap::Reference;
use super::soap::xml::{Document, Element};
use crate::hypervisor::HostProduct;

/// The API versions that otter speaks, newest first.
const VERSIONS: [&str; 24] = [
    "8.0.3.0", "8.0.2.0", "8.0.1.0", "8.0.0.1", "8.0.0.0", "7.0.3.2", "7.0.3.1", "7.0.3.0",
    "7.0.2.1", "7.0.2.0", "7.0.1.1", "7.0.1.0", "7.0.0.2", "7.0.0.0", "6.7.3", "6.7.2", "6.7.1",
    "6.7", "6.5", "6.0", "5.5", "5.1", "5.0", "4.1",
];

/// The API version that otter uses if the host does not list its versions. Every host from version
/// 6.5 on accepts it.
pub const FALLBACK_VERSION: &str = "6.5";

/// The parts of vim25's `ServiceContent` that otter uses: the host's singletons (its managers) and
/// its product.
#[derive(Clone, Debug)]
pub struct ServiceContent {
    pub root_folder: Reference,
    pub property_collector: Reference,
    pub view_manager: Reference,
    pub session_manager: Reference,
    pub license_manager: Option<Reference>,
    pub authorization_manager: Option<Reference>,
    pub file_manager: Option<Reference>,
    pub product: HostProduct,
}

impl ServiceContent {
    /// Reads the `returnval` of `RetrieveServiceContent`. `None` if it lacks a singleton that otter
    /// needs.
    #[must_use]
    pub fn from_element(content: Element<'_>) -> Option<Self> {
        let about = content.child("about")?;
        let field = |name| about.child_text(name).unwrap_or_default().to_owned();
        Some(Self {
            root_folder: Reference::in_child(content, "rootFolder")?,
            property_collector: Reference::in_child(content, "propertyCollector")?,
            view_manager: Reference::in_child(content, "viewManager")?,
            session_manager: Reference::in_child(content, "sessionManager")?,
            license_manager: Reference::in_child(content, "licenseManager"),
            authorization_manager: Reference::in_child(content, "authorizationManager"),
            file_manager: Reference::in_child(content, "fileManager"),
            product: HostProduct {
                full_name: field("fullName"),
                version: field("version"),
                build: field("build"),
                api_type: field("apiType"),
                api_version: field("apiVersion"),
            },
        })
    }
}

/// Whether an HTTP body is the document `vimServiceVersions.xml` of a host.
#[must_use]
pub fn is_version_list(body: &[u8]) -> bool {
    Document::parse(body).is_ok_and(|document| {
        document
            .root()
            .children_named("namespace")
            .any(|namespace| namespace.child_text("name").map(str::trim) == Some("urn:vim25"))
    })
}

/// Chooses the newest API version that both the host and otter speak. `body` is the host's document
/// `vimServiceVersions.xml`.
#[must_use]
pub fn choose_version(body: &[u8]) -> &'static str {
    let Ok(document) = Document::parse(body) else { return FALLBACK_VERSION };
    let mut offered: Vec<&str> = Vec::new();
    for namespace in document.root().children_named("namespace") {
        if namespace.child_text("name").map(str::trim) == Some("urn:vim25") {
            let prior = namespace.child("priorVersions").into_iter().flat_map(Element::children);
            offered.extend(
                namespace
                    .child("version")
                    .into_iter()
                    .chain(prior)
                    .map(|version| version.text().trim()),
            );
        }
    }
    VERSIONS.into_iter().find(|version| offered.contains(version)).unwrap_or(FALLBACK_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        let list = |version: &str, prior: &str| {
            format!(
                "<namespaces version='1.0'><namespace><name>urn:vim25</name>\
                 <version>{version}</version>\
                 <priorVersions>{prior}</priorVersions></namespace></namespaces>"
            )
        };
        let seven = list("7.0.3.0", "<version>6.7</version><version>6.5</version>");
        assert_eq!(choose_version(seven.as_bytes()), "7.0.3.0");
        let development = list("uA046D008", "<version>8.0.1.0</version><version>6.5</version>");
        assert_eq!(choose_version(development.as_bytes()), "8.0.1.0");
        assert_eq!(choose_version(list("99.0", "").as_bytes()), FALLBACK_VERSION);
        assert_eq!(choose_version(b"<html>"), FALLBACK_VERSION);
        assert!(is_version_list(seven.as_bytes()));
        assert!(!is_version_list(b"<html>") && !is_version_list(b"<html><body/></html>"));
    }
}
