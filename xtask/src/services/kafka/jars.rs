//! Kafka's jars, from Maven Central: no package of Debian has them.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use order_testkit::server::kafka::{libs, libs_directory};

/// The broker, and what writes its log lines to the console.
const POM: &str = r"<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>order-system</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>3.9.1</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
";

/// Fetches the jars, unless they are there.
pub(in crate::services) fn install() -> anyhow::Result<()> {
    if libs().is_ok() {
        return Ok(());
    }
    let libs = libs_directory();
    let directory = libs.parent().context("the jars have no directory")?;
    fs::create_dir_all(directory).context("cannot make the directory of the jars")?;
    let pom = directory.join("pom.xml");
    fs::write(&pom, POM).context("cannot write a pom")?;
    // Renamed when it is complete, so that half of the jars never look like all of them.
    let part = directory.join("libs.part");
    remove(&part)?;
    eprintln!("fetching Kafka with mvn");
    let status = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", part.display()))
        .status()
        .context("cannot run mvn")?;
    ensure!(status.success(), "mvn cannot fetch Kafka");
    remove(&libs)?;
    fs::rename(&part, &libs).context("cannot move the jars")
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
