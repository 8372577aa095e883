//! Which image of an index is for this machine.

use crate::manifest::{Descriptor, Index, Platform, media_type};
use crate::{Error, ErrorKind, Result};

/// How many platforms an error message lists.
const SHOWN_MAX: usize = 12;

/// The machine that images are chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    architecture: &'static str,
    /// Variants that run here, best first. Images that name no variant come after the first of them that is
    /// the architecture's baseline, and are worth as much.
    variants: &'static [&'static str],
}

impl Host {
    /// This machine.
    #[must_use]
    pub fn detect() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self {
                architecture: "amd64",
                variants: amd64_variants(),
            },
            "aarch64" => Self {
                architecture: "arm64",
                variants: &["v8", ""],
            },
            "arm" => Self {
                architecture: "arm",
                variants: &["v7", "", "v6", "v5"],
            },
            "x86" => Self {
                architecture: "386",
                variants: &[""],
            },
            "powerpc64" => Self {
                architecture: "ppc64le",
                variants: &[""],
            },
            other => Self {
                architecture: other,
                variants: &[""],
            },
        }
    }

    /// How well `platform` fits, 0 best; none when it does not run here.
    fn rank(self, platform: &Platform) -> Option<usize> {
        let architecture = match platform.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        if !platform.os.eq_ignore_ascii_case("linux") || architecture != self.architecture {
            return None;
        }
        let variant = match (architecture, platform.variant.as_str()) {
            ("arm64", "8") => "v8",
            ("amd64", "v1") => "",
            (_, variant) => variant,
        };
        self.variants.iter().position(|v| *v == variant)
    }

    /// The entry of `index` for this machine: the best variant, and of equals the first. Entries that are neither
    /// manifests nor indexes are passed over. A lone manifest that names no platform is taken as it is.
    ///
    /// # Errors
    /// `NotFound` when there is none; the message says what there is.
    pub fn choose(self, index: &Index) -> Result<&Descriptor> {
        let images = || {
            index
                .manifests
                .iter()
                .filter(|d| media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type))
        };
        let ranked = images().filter_map(|d| Some((self.rank(d.platform.as_ref()?)?, d)));
        if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Ok(best);
        }
        let mut unnamed = images().filter(|d| d.platform.as_ref().is_none_or(|p| p.architecture.is_empty()));
        if let (Some(only), None) = (unnamed.next(), unnamed.next()) {
            return Ok(only);
        }
        let shown: Vec<String> = images()
            .filter_map(|d| d.platform.as_ref())
            .take(SHOWN_MAX)
            .map(name)
            .collect();
        let has = if shown.is_empty() {
            "none that names a platform".to_owned()
        } else {
            shown.join(", ")
        };
        Err(Error::new(
            ErrorKind::NotFound,
            format!("no image for linux/{}; there is {has}", self.architecture),
        ))
    }
}

/// [`Host::choose`] for this machine.
///
/// # Errors
/// As [`Host::choose`].
pub fn choose(index: &Index) -> Result<&Descriptor> {
    Host::detect().choose(index)
}

fn name(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if !platform.variant.is_empty() {
        text.push('/');
        text.push_str(&platform.variant);
    }
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// The x86-64 levels of the psABI that this processor has.
fn amd64_variants() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    {
        let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
        let v3 = v2
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("movbe")
            && is_x86_feature_detected!("lzcnt");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if v4 {
            return &["v4", "v3", "v2", ""];
        }
        if v3 {
            return &["v3", "v2", ""];
        }
        if v2 {
            return &["v2", ""];
        }
    }
    &[""]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const AMD64: Host = Host {
        architecture: "amd64",
        variants: &["v3", "v2", ""],
    };
    const ARM64: Host = Host {
        architecture: "arm64",
        variants: &["v8", ""],
    };

    fn index(platforms: &[&str]) -> Index {
        let manifests = platforms
            .iter()
            .map(|text| {
                let mut parts = text.split('/').map(str::to_owned);
                let platform = (!text.is_empty()).then(|| Platform {
                    os: parts.next().unwrap(),
                    architecture: parts.next().unwrap(),
                    variant: parts.next().unwrap_or_default(),
                });
                Descriptor {
                    media_type: media_type::OCI_MANIFEST.into(),
                    digest: Digest::of(text.as_bytes()),
                    size: 1,
                    platform,
                    annotations: Default::default(),
                }
            })
            .collect();
        Index { manifests }
    }

    #[test]
    fn best_variant() {
        for (host, platforms, want) in [
            (AMD64, &["linux/arm64", "linux/amd64"][..], Some("linux/amd64")),
            (
                AMD64,
                &[
                    "linux/amd64",
                    "linux/amd64/v2",
                    "linux/amd64/v3",
                    "linux/amd64/v4",
                ],
                Some("linux/amd64/v3"),
            ),
            (AMD64, &["linux/amd64/v4", "windows/amd64"], None),
            (AMD64, &["linux/amd64/v1"], Some("linux/amd64/v1")),
            (AMD64, &["linux/x86_64"], Some("linux/x86_64")),
            (AMD64, &["unknown/unknown", "linux/amd64"], Some("linux/amd64")),
            (AMD64, &[""], Some("")),
            (AMD64, &["", ""], None),
            (AMD64, &[], None),
            (
                ARM64,
                &["linux/arm/v7", "linux/arm64", "linux/arm64/v8"],
                Some("linux/arm64/v8"),
            ),
            (ARM64, &["linux/aarch64"], Some("linux/aarch64")),
            (ARM64, &["linux/arm64/v9"], None),
        ] {
            let index = index(platforms);
            match (host.choose(&index), want) {
                (Ok(found), Some(want)) => {
                    assert_eq!(found.digest, Digest::of(want.as_bytes()), "{platforms:?}")
                }
                (Err(error), None) => assert_eq!(error.kind(), ErrorKind::NotFound),
                (found, want) => panic!("{platforms:?}: {found:?}, not {want:?}"),
            }
        }
        let error = AMD64.choose(&index(&["linux/arm64/v8"])).unwrap_err().to_string();
        assert_eq!(error, "no image for linux/amd64; there is linux/arm64/v8");
    }

    #[test]
    fn other_content_is_passed_over() {
        let mut index = index(&["linux/amd64"]);
        index.manifests[0].media_type = "application/vnd.example".into();
        assert!(AMD64.choose(&index).is_err());
    }
}
