//! Tests the properties with the inputs of the corpus: the seeds of the fuzzer, and inputs that
//! once broke a property. The fuzz targets are a separate package in this folder; `tests/fuzz/run`
//! runs them.

mod properties;

use std::path::Path;

use properties::PROPERTIES;

#[test]
fn every_property_holds_for_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let folders = std::fs::read_dir(&corpus).unwrap().count();
    assert_eq!(folders, PROPERTIES.len(), "each property has one folder");
    for (name, holds) in PROPERTIES {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let file = entry.unwrap().path();
            let bytes = std::fs::read(&file).unwrap();
            let has_held = std::panic::catch_unwind(|| holds(&bytes)).is_ok();
            assert!(has_held, "{} breaks the property {name}", file.display());
            inputs += 1;
        }
        assert!(inputs > 0, "the corpus of {name} is empty");
        println!("{name}: {inputs} inputs");
    }
}

#[test]
fn every_property_has_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in PROPERTIES {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")),
            "{name}"
        );
        let target = std::fs::read_to_string(folder.join(format!("targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("otter_fuzz::{name}(data)")), "{name}");
    }
}
