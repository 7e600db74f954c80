//! The proxy that the environment names, as curl and the container tools read it.

use marram_registry::Proxy;

/// In this order; the first that is set counts. An empty one is not set.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy for HTTPS; `variable` looks a variable up.
pub(super) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let first = |names: &[&'static str]| {
        names.iter().find_map(|name| Some((*name, variable(name).filter(|value| !value.trim().is_empty())?)))
    };
    let Some((name, url)) = first(&VARIABLES) else { return Ok(None) };
    let except = first(&EXCEPTIONS).map_or_else(Vec::new, |(_, list)| {
        list.split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect()
    });
    Proxy::new(&url, except).map(Some).map_err(|why| format!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Proxy>, String> {
        let found = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        of_environment(found)
    }

    #[test]
    fn the_first_variable_that_is_set_counts() {
        let proxy =
            |url: &str, except: &[&str]| Ok(Some(Proxy::new(url, except.iter().map(|e| (*e).to_owned())).unwrap()));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("HTTP_PROXY", "http://h:1")]), Ok(None), "that one is for plain HTTP");
        assert_eq!(read(&[("HTTPS_PROXY", ""), ("https_proxy", "h:2")]), proxy("http://h:2", &[]));
        let all =
            [("ALL_PROXY", "http://h:3"), ("HTTPS_PROXY", "http://h:4"), ("NO_PROXY", " a.example, 10.0.0.0/8 ,")];
        assert_eq!(read(&all), proxy("http://h:4", &["a.example", "10.0.0.0/8"]));
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named_without_its_text() {
        let said = read(&[("ALL_PROXY", "socks5://user:secret@h:1")]).unwrap_err();
        assert!(said.starts_with("ALL_PROXY: ") && said.contains("socks5") && !said.contains("secret"), "{said}");
    }
}
