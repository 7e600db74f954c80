//! Mirrors: other places that have what a registry has. Says where an image is to be looked for; asks nobody.

use crate::image::{Authority, BadImage, Image, RemoteImage};

/// A place that has the same repositories as a registry, or as a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    of: Place,
    at: Place,
}

/// `host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    registry: Authority,
    /// Without slashes at its ends; empty = all of the registry.
    path: String,
}

impl Mirror {
    /// `prefix` is what is mirrored, `location` where it is: each `host[:port]`, or a path in one (`host/team`).
    ///
    /// # Errors
    /// Which of the two is wrong, and why.
    pub fn new(prefix: &str, location: &str) -> Result<Self, (&'static str, BadImage)> {
        let of = Place::parse(prefix).map_err(|err| ("prefix", err))?;
        let at = Place::parse(location).map_err(|err| ("location", err))?;
        Ok(Self { of, at })
    }

    /// Where this mirror has the image; none = it has not.
    pub(crate) fn place_of(&self, image: &RemoteImage) -> Option<RemoteImage> {
        let registry = image.registry.as_ref()?;
        // Both ports are the scheme's when they are missing, and the scheme is that of one host.
        if !registry.api().same(&self.of.registry.api(), 443) {
            return None;
        }
        let rest = match self.of.path.as_str() {
            "" => image.repository.as_str(),
            path => image.repository.strip_prefix(path)?.strip_prefix('/')?,
        };
        let repository = if self.at.path.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.at.path) };
        Some(RemoteImage { registry: Some(self.at.registry.clone()), repository, ..image.clone() })
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, BadImage> {
        let (registry, path) = text.trim().split_once('/').unwrap_or((text.trim(), ""));
        let registry = Authority::parse(registry)?;
        let path = path.trim_end_matches('/').to_owned();
        if !path.is_empty() {
            // By the rules of repositories.
            match Image::parse(&format!("host.example/{path}"))? {
                Image::Remote(RemoteImage { repository, digest: None, .. }) if repository == path => {}
                _ => return Err(BadImage::Repository(path)),
            }
        }
        Ok(Self { registry, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(prefix: &str, location: &str, image: &str) -> Option<String> {
        let Image::Remote(image) = Image::parse(image).unwrap() else { unreachable!() };
        Mirror::new(prefix, location).unwrap().place_of(&image).map(|image| image.to_string())
    }

    #[test]
    fn a_mirror_has_what_stands_below_its_prefix() {
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(place("r.example", "m:5000", "r.example/team/a:1"), at("m:5000/team/a:1"));
        assert_eq!(place("r.example", "m:5000/r", "r.example/team/a:1"), at("m:5000/r/team/a:1"));
        assert_eq!(place("r.example/team", "m/x/y/", "r.example/team/a:1"), at("m/x/y/a:1"));
        assert_eq!(place("docker.io", "m", "index.docker.io/library/a:1"), at("m/library/a:1"));
        let pinned = format!("r.example/a:1@sha256:{}", "0".repeat(64));
        assert_eq!(place("r.example", "m", &pinned), at(&pinned.replace("r.example", "m")));
        for other in ["r.example:5000/team/a:1", "s.example/team/a:1"] {
            assert_eq!(place("r.example", "m", other), None, "{other}");
        }
        for other in ["r.example/teamwork/a:1", "r.example/team:1", "r.example/a:1"] {
            assert_eq!(place("r.example/team", "m", other), None, "{other}");
        }
    }

    #[test]
    fn a_mirror_that_is_no_place_says_which_part() {
        let fault = |prefix, location| Mirror::new(prefix, location).unwrap_err().0;
        assert_eq!(fault("https://r.example", "m"), "prefix");
        assert_eq!(fault("r.example/a:1", "m"), "prefix");
        assert_eq!(fault("r.example", "m/Upper"), "location");
        assert_eq!(fault("r.example", ""), "location");
        assert_eq!(fault("r.example", "m//x"), "location");
    }
}
