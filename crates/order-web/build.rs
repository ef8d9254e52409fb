//! Turns the documents of the API into what is served: `api/*.yaml`, written for people, into JSON.

use std::{env, error::Error, fs, path::Path};

use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    // From the environment of this run: the script may have been compiled in another checkout.
    let root = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let source = Path::new(&root).join("../../api");
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?;
    println!("cargo::rerun-if-changed={}", source.display());
    for name in ["openapi", "asyncapi"] {
        let yaml = fs::read_to_string(source.join(name).with_extension("yaml"))?;
        let document: Value =
            serde_saphyr::from_str(&yaml).map_err(|error| format!("api/{name}.yaml: {error}"))?;
        let json = Path::new(&out_dir).join(name).with_extension("json");
        fs::write(json, document.to_string())?;
    }
    Ok(())
}
