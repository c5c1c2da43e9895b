//! `GET /` and `GET /page/{file}`: the page for people, whose files are in `src/web`. It is an
//! ordinary client of the API, and needs no token itself.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use axum::response::Response;
use axum::routing::get;

use super::extract::{NoParameters, Query, Segment};
use super::links;
use super::problem::ApiError;
use super::roles::Routes;
use super::web_file::WebFile;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::machines::shorten;

/// What the page may load and do. Everything comes from this otter, nothing is inline, and a text
/// can never become HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The file that `GET /` returns.
const INDEX: &str = "index.html";

/// A table of the files in `src/web`, with their names in addresses.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../web/", $name)).as_slice())),*]
    };
}

/// All files of the page.
const FILES: &[(&str, &[u8])] = files![
    "actions.js",
    "api.js",
    "console_socket.js",
    "data.js",
    "dialogs.js",
    "format.js",
    "frame.js",
    "icon.svg",
    "index.html",
    "lease_actions.js",
    "live.js",
    "main.js",
    "messages.js",
    "parts.js",
    "rights.js",
    "route.js",
    "save.js",
    "session.js",
    "store.js",
    "style.css",
    "upload.js",
    "vdom.js",
    "windowed.js",
    "screen/input.js",
    "screen/keys.js",
    "screen/picture.js",
    "screen/rfb.js",
    "screen/view.js",
    "serial/terminal.js",
    "serial/text.js",
    "serial/view.js",
    "views/artifacts.js",
    "views/console.js",
    "views/datastores.js",
    "views/files.js",
    "views/filters.js",
    "views/jobs.js",
    "views/leases.js",
    "views/machine.js",
    "views/machines.js",
    "views/overview.js",
    "views/paged.js",
    "views/player.js",
    "views/pools.js",
    "views/sign_in.js",
    "views/snapshots.js",
];

static PAGE: LazyLock<HashMap<&'static str, WebFile>> = LazyLock::new(|| {
    FILES.iter().map(|&(name, bytes)| (name, WebFile::new(name, Cow::Borrowed(bytes)))).collect()
});

/// The routes of this file.
pub fn routes() -> Routes {
    Routes::default()
        .undocumented(None, "/", get(|_: Query<NoParameters>| async { index() }))
        .undocumented(
            None,
            "/page/{*file}",
            get(|Segment(name): Segment, _: Query<NoParameters>| async move { file(&name) }),
        )
}

/// The page itself. Its addresses are relative to the root of otter. If the client reaches otter
/// under a path, they begin with it, because that path can be called without a slash at its end.
fn index() -> Result<Response, ApiError> {
    let base = links::base();
    let html = FILES.iter().find(|(name, _)| *name == INDEX).map(|(_, bytes)| *bytes);
    match html.map(std::str::from_utf8) {
        Some(Ok(html)) if !base.is_root() => {
            let html = html_under(base.prefix(), html);
            Ok(WebFile::new(INDEX, Cow::Owned(html.into_bytes())).respond(POLICY))
        }
        _ => file(INDEX),
    }
}

fn html_under(prefix: &str, html: &str) -> String {
    ["href", "src"].into_iter().fold(html.to_owned(), |html, attribute| {
        html.replace(&format!("{attribute}=\""), &format!("{attribute}=\"{prefix}/"))
    })
}

fn file(name: &str) -> Result<Response, ApiError> {
    let found = PAGE.get(name).ok_or_else(|| {
        let detail = format!("The page has no file {}.", shorten(name));
        Failure::new(FailureKind::NotFound, detail)
    })?;
    Ok(found.respond(POLICY))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::path::Path;

    use super::*;

    fn files_below(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                files_below(&entry.path(), &format!("{name}/"), names);
            } else {
                names.insert(name);
            }
        }
    }

    fn text(name: &str) -> &'static str {
        let (_, bytes) = FILES.iter().find(|(known, _)| *known == name).unwrap();
        std::str::from_utf8(bytes).unwrap()
    }

    /// The files that a module imports, by their names in the table.
    fn imports(name: &str) -> Vec<String> {
        let folder: Vec<&str> = name.split('/').rev().skip(1).collect();
        let sources = text(name).lines().filter_map(|line| line.split_once(" from \""));
        let paths = sources.filter_map(|(_, rest)| rest.split_once('"').map(|(path, _)| path));
        paths
            .map(|path| {
                let mut segments: Vec<&str> = folder.iter().rev().copied().collect();
                for segment in path.split('/') {
                    match segment {
                        "." => {}
                        ".." => drop(segments.pop().unwrap()),
                        name => segments.push(name),
                    }
                }
                segments.join("/")
            })
            .collect()
    }

    #[test]
    fn the_table_has_all_files_of_the_folder() {
        let mut names = BTreeSet::new();
        files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web"), "", &mut names);
        let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, names);
        assert_eq!(PAGE.len(), FILES.len(), "each file is listed once");
    }

    #[test]
    fn each_module_is_used_and_exists() {
        let mut reached = BTreeSet::from(["main.js".to_owned()]);
        let mut pending = vec!["main.js".to_owned()];
        while let Some(name) = pending.pop() {
            for import in imports(&name) {
                assert!(PAGE.contains_key(import.as_str()), "{name} imports {import}");
                if reached.insert(import.clone()) {
                    pending.push(import);
                }
            }
        }
        let modules = FILES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| Path::new(name).extension() == Some(OsStr::new("js")));
        let unused: Vec<&str> = modules.filter(|name| !reached.contains(*name)).collect();
        assert_eq!(unused, [""; 0]);
    }

    #[test]
    fn no_file_has_inline_code_or_loads_from_another_server() {
        for (name, _) in FILES {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "@import",
                "url(",
                "localStorage",
                "<style",
                " style=",
                "onclick=",
                "javascript:",
            ] {
                assert!(!text(name).contains(forbidden), "{name} has {forbidden}");
            }
            // The name space of SVG is no address that is loaded.
            let allowed = text(name).matches("http://www.w3.org/2000/svg").count();
            let outside = text(name).matches("://").count();
            assert!(outside <= allowed, "{name} names an address");
        }
        assert_eq!(text(INDEX).matches("<script").count(), 1);
        assert!(text(INDEX).contains("<noscript>"));
    }

    #[test]
    fn addresses_begin_with_the_path_under_which_the_client_reaches_otter() {
        let html = html_under("/otter", text(INDEX));
        assert!(html.contains("src=\"/otter/page/main.js\""), "{html}");
        for attribute in ["href=\"", "src=\""] {
            let own = format!("{attribute}/otter/");
            assert_eq!(html.matches(attribute).count(), html.matches(&own).count(), "{html}");
        }
    }

    #[test]
    fn an_unknown_file_is_not_found() {
        for name in ["", "none.js", "../Cargo.toml", "views", "views/"] {
            assert_eq!(file(name).unwrap_err().0.kind, FailureKind::NotFound, "{name}");
        }
        assert!(file("views/machine.js").is_ok());
    }
}
