//! Facts about image references.

use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn remote(text: &str) -> RemoteImage {
    match Image::parse(text) {
        Ok(Image::Remote(image)) => image,
        other => panic!("{text}: {other:?}"),
    }
}

fn layout(text: &str) -> LayoutImage {
    match Image::parse(text) {
        Ok(Image::Layout(image)) => image,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_missing_tag_is_latest_and_a_digest_needs_none() {
    assert_eq!(remote("a.example/x").tag.as_deref(), Some("latest"));
    assert_eq!(remote(" a.example/x:1.0 ").tag.as_deref(), Some("1.0"));
    let pinned = remote(&format!("a.example/x@sha256:{HEX}"));
    assert_eq!((pinned.tag, pinned.digest), (None, Some(Digest::of(b""))));
    let both = remote(&format!("a.example/x:1@sha256:{HEX}"));
    assert_eq!((both.tag.as_deref(), both.digest), (Some("1"), Some(Digest::of(b""))));
}

#[test]
fn the_first_part_is_a_registry_only_if_it_looks_like_a_host() {
    let registry = |text: &str| remote(text).registry.map(|r| r.to_string());
    assert_eq!(registry("temp"), None);
    assert_eq!(registry("marram/temp:1"), None);
    assert_eq!(registry("marram:5000"), None, "a tag, not a port");
    assert_eq!(registry("localhost/temp").as_deref(), Some("localhost"));
    assert_eq!(registry("host:5000/temp").as_deref(), Some("host:5000"));
    assert_eq!(registry("Registry.Example/a/b").as_deref(), Some("registry.example"));
    assert_eq!(registry("[::1]:5000/a").as_deref(), Some("[::1]:5000"));
}

#[test]
fn a_layout_is_a_path_and_perhaps_a_tag() {
    assert_eq!(layout("oci:/a/b:1.0"), LayoutImage { path: "/a/b".into(), tag: Some("1.0".into()), digest: None });
    assert_eq!(layout("oci:a b/c"), LayoutImage { path: "a b/c".into(), tag: None, digest: None });
    assert_eq!(layout("oci:/a:b/c").tag, None, "what follows the colon is no tag");
    assert_eq!(layout(&format!("oci:/a:1@sha256:{HEX}")).digest, Some(Digest::of(b"")));
}

#[test]
fn each_fault_is_named() {
    let bad = |text: &str| Image::parse(text).unwrap_err();
    assert_eq!(bad("  "), BadImage::Empty);
    assert_eq!(bad("oci:"), BadImage::NoPath);
    assert_eq!(bad("oci::tag"), BadImage::NoPath);
    assert_eq!(bad("a\nb"), BadImage::Character('\n'));
    assert!(matches!(bad("https://a.example/x"), BadImage::Scheme(_)));
    assert!(matches!(bad("a.example/X"), BadImage::UpperCase(_)));
    for text in ["a.example/", "/x", "a.example/a//b", "a.example/../x", "a.example/x/..", "a/-b", "a/b_"] {
        assert!(matches!(bad(text), BadImage::Repository(_)), "{text}");
    }
    for text in ["a.example:0/x", "a.example:99999/x", "a.example:/x", "$upstream:443/x", "[::g]:1/x", "a..b/x"] {
        assert!(matches!(bad(text), BadImage::Registry(_)), "{text}");
    }
    for text in ["a.example/x:", "a.example/x:.1", &format!("a.example/x:{}", "t".repeat(129))] {
        assert!(matches!(bad(text), BadImage::Tag(_)), "{text}");
    }
    assert!(matches!(bad("a.example/x@sha256:12"), BadImage::Digest(_)));
    assert!(matches!(bad("a.example/x@md5:12"), BadImage::Digest(BadDigest::Algorithm(_))));
}

#[test]
fn only_addresses_of_this_device_are_loopback() {
    let loopback = |text: &str| Authority::parse(text).unwrap().is_loopback();
    for text in ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.8.8.8:1", "[::1]:5000"] {
        assert!(loopback(text), "{text}");
    }
    for text in ["localhost.example", "127.0.0.1.example", "10.0.0.1", "0.0.0.0", "[::2]"] {
        assert!(!loopback(text), "{text}");
    }
}

#[test]
fn the_address_of_a_credential_may_be_a_url() {
    let same = |a: &str, b: &str| Authority::of_address(a).unwrap().same(&Authority::parse(b).unwrap(), 443);
    assert!(same("a.example", "A.example"));
    assert!(same("https://a.example/v2/", "a.example:443"));
    assert!(!same("a.example", "a.example:5000"));
    assert!(!same("a.example", "b.example"));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
        let _ = Image::parse(&text);
        let _ = Authority::of_address(&text);
    }

    #[test]
    fn what_parses_prints_to_a_text_that_parses_to_the_same(
        text in prop_oneof![
            "(oci:)?[a-z0-9.:/@_-]{1,40}",
            "[a-z]{1,5}(\\.[a-z]{2,4})?(:[0-9]{1,5})?/[a-z0-9]{1,5}(/[a-z0-9]{1,4}[._-][a-z]{1,3})?(:[A-Za-z0-9_][a-z.-]{0,5})?(@sha256:[0-9a-f]{64})?",
            "oci:[a-zA-Z ./:-]{1,20}(:[a-z0-9.]{1,5})?",
        ]
    ) {
        if let Ok(image) = Image::parse(&text) {
            prop_assert_eq!(Image::parse(&image.to_string()), Ok(image));
        }
    }

    #[test]
    fn a_repository_never_leaves_its_place_in_a_path(text in "[a-z./-]{1,30}") {
        if let Ok(Image::Remote(image)) = Image::parse(&text) {
            prop_assert!(image.repository.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        }
    }
}
