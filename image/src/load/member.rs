//! The files of an archive, found by name and read where they are.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::{failed, invalid};
use crate::layer::tar::{Archive, Kind};
use crate::limits::{ARCHIVE_FILES_MAX, DOCUMENT_SIZE_MAX};
use crate::{Error, ErrorKind, Result};

/// Links in a row from one member to another.
const LINKS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Members {
    file: File,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File(Span),
    /// `docker save` once wrote a layer that two images have as a link.
    Link(String),
}

/// Where a file's data lies.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Members {
    pub(super) fn read(file: File) -> Result<Self> {
        let mut archive = Archive::new(file);
        let mut members = HashMap::new();
        while let Some(entry) = archive.next_entry()? {
            let Ok(name) = std::str::from_utf8(&entry.name) else {
                continue;
            };
            let Some(name) = resolve("", name) else { continue };
            let link = || std::str::from_utf8(&entry.link).ok();
            let member = match entry.kind {
                Kind::File => Member::File(Span {
                    offset: archive.position(),
                    size: entry.size,
                }),
                Kind::HardLink => match link().and_then(|link| resolve("", link)) {
                    Some(link) => Member::Link(link),
                    None => continue,
                },
                Kind::Symlink => match link().and_then(|link| resolve(parent(&name), link)) {
                    Some(link) => Member::Link(link),
                    None => continue,
                },
                _ => continue,
            };
            if members.len() >= ARCHIVE_FILES_MAX {
                return Err(invalid("it has too many files"));
            }
            if let Some(name) = members.insert(name.clone(), member).map(|_| name) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("image archive has {name:?} twice"),
                ));
            }
        }
        Ok(Self {
            file: archive.into_source(),
            members,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Where `name`, or what it links to, is.
    pub(super) fn span(&self, name: &str) -> Result<Span> {
        let absent = || invalid(&format!("it has no file {name:?}"));
        let mut at = resolve("", name).ok_or_else(absent)?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&at).ok_or_else(absent)? {
                Member::File(span) => return Ok(span.clone()),
                Member::Link(to) => at.clone_from(to),
            }
        }
        Err(invalid(&format!("{name:?} is a link in a circle")))
    }

    /// A document, whole.
    pub(super) fn document(&self, name: &str) -> Result<Bytes> {
        let span = self.span(name)?;
        if span.size > DOCUMENT_SIZE_MAX {
            return Err(invalid(&format!(
                "{name:?} is larger than {DOCUMENT_SIZE_MAX} bytes"
            )));
        }
        let mut bytes = vec![0; usize::try_from(span.size).unwrap_or_default()];
        self.file
            .read_exact_at(&mut bytes, span.offset)
            .map_err(|e| failed("reading the archive", e))?;
        Ok(bytes.into())
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A name relative to a directory of the archive; none when it leads out.
fn resolve(directory: &str, name: &str) -> Option<String> {
    let directory = if name.starts_with('/') { "" } else { directory };
    let mut components: Vec<&str> = Vec::new();
    for component in directory.split('/').chain(name.split('/')) {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()?),
            _ => components.push(component),
        }
    }
    Some(components.join("/"))
}
