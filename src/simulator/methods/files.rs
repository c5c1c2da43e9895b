//! The methods of `HostDatastoreBrowser`, `FileManager` and `Datastore` for files.

use super::Call;
use crate::simulator::schema;
use crate::simulator::soap::{self, Request};
use crate::simulator::value::Value;
use crate::simulator::vim_fault::Fault;
use crate::simulator::world::{FilePath, FileSearch, FileType, Operation, SearchDetails, World};

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    match method {
        "MakeDirectory" => {
            let path = path(request, "name")?;
            let world = &mut call.state.world;
            world.check_may_change()?;
            let made = world.make_folder(&path, request.is_set("createParentDirectories"));
            made.map_err(|problem| problem.fault(&path))?;
            return soap::empty_answer(method).map(Some);
        }
        "RefreshDatastore" => {
            call.state.world.refresh_datastore(&request.target.id);
            return soap::empty_answer(method).map(Some);
        }
        _ => {}
    }
    let Some(operation) = operation(&call.state.world, request)? else { return Ok(None) };
    let user = call.session()?.user().to_owned();
    let task = call.state.world.start_file_task(operation, &user)?;
    soap::answer_value(method, &Value::Reference(task), "Task").map(Some)
}

/// The operation that the called method starts as a task. `None` if the method starts no task of
/// files.
fn operation(world: &World, request: &Request) -> Result<Option<Operation>, Fault> {
    let force = request.is_set("force");
    Ok(Some(match request.method.as_str() {
        "SearchDatastore_Task" | "SearchDatastoreSubFolders_Task" => {
            let search = read_search(request)?;
            // The host looks at the datastore before it starts the task.
            let root = FilePath { path: String::new(), ..search.folder.clone() };
            world.entry(&root).map_err(|problem| problem.fault(&root))?;
            Operation::SearchFiles(Box::new(search))
        }
        "DeleteDatastoreFile_Task" => Operation::DeleteFile(path(request, "name")?),
        "MoveDatastoreFile_Task" => Operation::MoveFile {
            from: path(request, "sourceName")?,
            to: path(request, "destinationName")?,
            force,
        },
        "CopyDatastoreFile_Task" => Operation::CopyFile {
            from: path(request, "sourceName")?,
            to: path(request, "destinationName")?,
            force,
        },
        _ => return Ok(None),
    }))
}

fn path(request: &Request, parameter: &str) -> Result<FilePath, Fault> {
    let text = request.required(parameter)?;
    FilePath::parse(text).map_err(|problem| {
        problem.fault(&FilePath { datastore: String::new(), path: text.to_owned() })
    })
}

fn read_search(request: &Request) -> Result<FileSearch, Fault> {
    let spec = request.call().child("searchSpec");
    let queries = spec.iter().flat_map(|spec| spec.children_named("query"));
    let queries: Vec<_> = queries.collect();
    // A base query stands for every file.
    let names = queries.iter().map(|query| query.type_name().unwrap_or("FileQuery"));
    let types = names.filter(|name| *name != "FileQuery" && schema::is_a(name, "FileQuery"));
    let flag = |name: &str| {
        let details = spec.and_then(|spec| spec.child("details"));
        details.and_then(|details| details.child_text(name)).is_some_and(soap::is_true)
    };
    let disk = queries.iter().any(|query| {
        query.type_name() == Some("VmDiskFileQuery") && query.child("details").is_some()
    });
    let is_set =
        |name: &str| spec.and_then(|spec| spec.child_text(name)).is_some_and(soap::is_true);
    Ok(FileSearch {
        folder: path(request, "datastorePath")?,
        with_sub_folders: request.method == "SearchDatastoreSubFolders_Task",
        patterns: spec
            .iter()
            .flat_map(|spec| spec.children_named("matchPattern"))
            .map(|pattern| pattern.text().to_owned())
            .collect(),
        ignores_case: is_set("searchCaseInsensitive"),
        types: types.map(FileType::of_query).collect(),
        details: SearchDetails {
            has_type: flag("fileType"),
            has_size: flag("fileSize"),
            has_modification: flag("modification"),
            has_owner: flag("fileOwner"),
            has_disk: disk,
        },
        sorts_folders_first: is_set("sortFoldersFirst"),
    })
}
