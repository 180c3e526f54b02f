//! HTTP entry: routes, decoding, authorisation, encoding.
