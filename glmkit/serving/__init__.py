"""`glmkit serve`: OpenAI's images API over HTTP, answered by one model that one thread owns.

settings   what the server allows; errors in the API's form
fields     what a client sends -> a checked request
scheduler  jobs, batches of prior tokens, cancelling, deadlines
adapters   adapters by name, switched from a clean copy
app        routes
page.html  the page at /
"""
