"""Create S3 buckets that do not exist yet: `python create_buckets.py ENDPOINT BUCKET…`.

The keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. A store that is still starting gets a minute.
"""

import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

endpoint, *buckets = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
deadline = time.monotonic() + 60
while True:
    try:
        existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for bucket in buckets:
            if bucket not in existing:
                client.create_bucket(Bucket=bucket)
        break
    except (BotoCoreError, ClientError) as error:
        if time.monotonic() > deadline:
            sys.exit(f"{endpoint}: {error}")
        time.sleep(1)
print(f"{endpoint} has the buckets {', '.join(buckets)}")
