//! A laboratory of network namespaces: sites, NATs, links, nodes and pods without root.
