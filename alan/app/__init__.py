"""The page for experts, in a browser, on the public interface only."""
