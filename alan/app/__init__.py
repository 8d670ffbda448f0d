"""The page for experts in the browser, built on the public interface only."""
